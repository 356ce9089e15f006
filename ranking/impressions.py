"""Labels for click models: who was shown what, and whether they took it."""

from __future__ import annotations

import numpy as np
import polars as pl

from ranking.project import RankingProject
from reland_features.errors import TableError

_TEST_SHARE = 0.2


def has_impressions(project: RankingProject) -> bool:
    """Tell whether a project has any."""
    path = project.mart("impressions")
    return path.is_file() and pl.scan_parquet(path).select(pl.len()).collect().item() > 0


def impression_labels(
    project: RankingProject, *, max_users: int | None = None, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """Return training and test impressions and the protocol in words; the last fifth in time is tested on.

    Features are asked for as of the day's first impression of all: each user and item is joined once a day,
    and nothing from after an impression is used.

    Raises
    ------
    TableError
        The project has no impressions.
    """
    if not has_impressions(project):
        raise TableError(
            "this project has no impressions",
            where=str(project.mart("impressions")),
            hint="set data.impressions in reland.toml and run reland run, or: --labels holdout",
        )
    shown = pl.read_parquet(project.mart("impressions")).sort("shown_at", "user_id", "item_id")
    users = shown["user_id"].unique().sort()
    if max_users is not None and len(users) > max_users:
        kept = users.gather(np.random.default_rng(seed).choice(len(users), size=max_users, replace=False))
        shown = shown.filter(pl.col("user_id").is_in(kept.implode()))
    first = shown["shown_at"].gather([int(shown.height * (1 - _TEST_SHARE))])[0]
    day = pl.col("shown_at").dt.truncate("1d")
    labelled = shown.select(
        "user_id",
        "item_id",
        "shown_at",
        label=pl.col("is_clicked").cast(pl.Int8),
        event_timestamp=pl.col("shown_at").min().over(day),
    )
    train, test = (
        labelled.filter(condition).drop("shown_at")
        for condition in (pl.col("shown_at") < first, pl.col("shown_at") >= first)
    )
    clicks = int(labelled["label"].sum())
    return train, test, f"{labelled.height:,} impressions, {clicks:,} clicked, tested on those from {first!s}"
