"""What a click model reads beside the Feast views of a row: profiles, histories, and the rationales of seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from ranking.ctr_fields import HISTORY
from ranking.project import RankingProject
from ranking.seed_lists import seed_lists
from ranking.services import SEED_SERVICE
from ranking.training_frame import training_frame

if TYPE_CHECKING:
    from feast import FeatureStore


def with_mart_features(users: pl.DataFrame, project: RankingProject, *, past: bool = False) -> pl.DataFrame:
    """Add what no Feast view holds: `profile`, and `history`, the last items of the user.

    Parameters
    ----------
    users : polars.DataFrame
        user_id and event_timestamp.
    past : bool
        Cut histories before each row's event_timestamp; without it they are those of the published features.
        Either way they are no longer than the ones that are served, `data.max_history`.
    """
    profiles = pl.read_parquet(project.mart("users"), columns=["user_id", "profile"])
    served = pl.scan_parquet(project.mart("user_histories"))
    if past:
        # The longest history served is data.max_history, as the marts were built with it, --set included, or no
        # user has more; then nothing is cut here either.
        longest = served.select(pl.col("item_ids").list.len().max()).collect().item() or 0
        events = pl.scan_parquet(project.mart("interactions")).select("user_id", "item_id", "interacted_at")
        histories = (
            users.lazy()
            .select("user_id", "event_timestamp")
            .join(events, on="user_id", maintain_order="left_right")
            .filter(pl.col("interacted_at") < pl.col("event_timestamp"))
            .group_by("user_id", "event_timestamp", maintain_order=True)
            .agg(history=pl.col("item_id").tail(min(HISTORY, longest)))
            .collect()
        )
        users = users.join(histories, on=["user_id", "event_timestamp"], how="left", maintain_order="left")
    else:
        histories = served.select("user_id", history=pl.col("item_ids").list.tail(HISTORY)).collect()
        users = users.join(histories, on="user_id", how="left", maintain_order="left")
    return users.join(profiles, on="user_id", how="left", maintain_order="left")


def seed_frame(store: FeatureStore, users: pl.DataFrame) -> pl.DataFrame:
    """Return the rationale of every seed that some user inherits from, one row a seed and pool version.

    The rows have an event_timestamp too, that of the last user row with this seed.
    """
    lists = seed_lists(users).select("pool_version", seed_user_id="seed_user_ids")
    matched = lists.with_columns(users["event_timestamp"]).explode("seed_user_id").drop_nulls("seed_user_id")
    keys = matched.group_by("seed_user_id", "pool_version", maintain_order=True).agg(pl.col("event_timestamp").max())
    if not keys.height:
        names = ("seed_user_id", "seed_rationale__pool_version")
        return pl.DataFrame(
            schema={
                **dict.fromkeys(names, pl.String()),
                "seed_rationale__rationale_embedding": pl.List(pl.Float32),
                "event_timestamp": users.schema["event_timestamp"],
            }
        )
    frame = training_frame(store, keys.drop("pool_version"), SEED_SERVICE, show_coverage=False)
    return frame.unique(["seed_user_id", "seed_rationale__pool_version"], maintain_order=True)
