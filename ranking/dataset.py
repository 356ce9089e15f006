"""Make ranking queries from the held-out events: a positive and candidates per user.

The holdout is leave-last-out per user, not a point in time: a user's last events may be older than
another user's history. Features are therefore asked for as of the published run's `as_of`, whose
histories hold no held-out event of anyone, and not as of the event itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ranking.project import RankingProject
from reland_features.errors import ConfigError, TableError

TEST, TRAIN = 1, 2
"""The held-out part whose last event is tested on, and the one whose last event is trained on."""


@dataclass(frozen=True)
class RankingQueries:
    """Who is to be shown what, and what was right.

    Parameters
    ----------
    frame : polars.DataFrame
        query (int64, ascending), user_id, item_id, label (int8, one 1 per query), event_timestamp.
    protocol : str
        What the candidates are, in words.
    """

    frame: pl.DataFrame
    protocol: str

    @property
    def users(self) -> pl.Series:
        """User of each query, in the order of queries."""
        return self.frame.group_by("query", maintain_order=True).first()["user_id"]


def ranking_queries(
    project: RankingProject,
    part: int,
    *,
    candidates: int | None,
    max_users: int | None = None,
    seed: int = 0,
) -> RankingQueries:
    """Draw one query per user with held-out events.

    Parameters
    ----------
    project : RankingProject
        Its marts give events, items and histories.
    part : int
        `TRAIN` or `TEST`.
    candidates : int, optional
        Items in each query, at least 2: the positive, and negatives drawn uniformly from the items that the user
        has no event with. None ranks the whole catalogue apart from the user's other items.
    max_users : int, optional
        Keep a uniform sample of so many users, at least 1; the same seed gives the same users for train and test.
    seed : int
        Of the draws.

    Raises
    ------
    ConfigError
        `candidates` or `max_users` is too small: a positive alone is first whatever the ranker.
    TableError
        Nothing is held out, or the catalogue has a single item.
    """
    check_sizes(candidates, max_users)
    holdout = pl.read_parquet(project.mart("holdout"))
    positives = _last_of_part(holdout, part).select("user_id", "item_id").sort("user_id")
    if not positives.height:
        raise TableError(
            "no events are held out, so no ranker can be trained or tested",
            where=str(project.mart("holdout")),
            got=f"0 events in part {part}",
            hint="set evaluation.holdout = 2 in reland.toml and run reland run",
        )
    if max_users is not None and positives.height > max_users:
        kept = np.random.default_rng(seed).choice(positives.height, size=max_users, replace=False)
        positives = positives[np.sort(kept)]
    items = pl.read_parquet(project.mart("items"), columns=["item_id"])["item_id"]
    if len(items) < 2:
        raise TableError("there is nothing to rank", where=str(project.mart("items")), got=f"{len(items)} items")
    seen = _seen_rows(project, positives["user_id"], items, holdout)
    rows = dict(zip(items.to_list(), range(len(items)), strict=True))
    rng = np.random.default_rng([seed, part])
    picked = []
    for user, item in positives.iter_rows():
        own = rows.get(item)
        picked.append(_candidates(rng, len(items), own, seen.get(user, np.array([], np.int64)), candidates))
    lengths = np.array([len(p) + 1 for p in picked])
    frame = pl.DataFrame(
        {
            "query": np.repeat(np.arange(len(picked)), lengths),
            "user_id": positives["user_id"].gather(np.repeat(np.arange(len(picked)), lengths)),
            "item_id": pl.concat(
                [pl.concat([positives["item_id"][n : n + 1], items.gather(p)]) for n, p in enumerate(picked)]
            ),
        }
    ).with_columns(
        label=(pl.int_range(pl.len()).over("query") == 0).cast(pl.Int8),
        event_timestamp=pl.lit(project.as_of, pl.Datetime("us")),
    )
    # A positive that always comes first would win every tie: XGBoost's NDCG sorts stably, and early stopping
    # then prefers a model of one tree that ties everything.
    shuffled = rng.permutation(frame.height)
    frame = frame[shuffled].sort("query", maintain_order=True)
    return RankingQueries(frame, _protocol(candidates, positives.height, int(lengths.min()), int(lengths.max())))


def check_sizes(candidates: int | None, max_users: int | None) -> None:
    """Raise ConfigError where queries of so many items, or so many users, would measure nothing."""
    least = {"candidates": (candidates, 2), "max_users": (max_users, 1)}
    small = {name: (given, least) for name, (given, least) in least.items() if given is not None and given < least}
    if small:
        raise ConfigError(
            "there is nothing to measure with so few",
            where=", ".join(small),
            got=", ".join(f"{name} = {given}" for name, (given, _) in small.items()),
            expected=", ".join(f"{name} from {least}" for name, (_, least) in small.items()),
        )


def _last_of_part(holdout: pl.DataFrame, part: int) -> pl.DataFrame:
    """Return each user's last event of a part; the test part is the later half of what is held out."""
    first_rank = 1 + (part - 1) * (pl.col("holdout_rank").max() // 2)
    return holdout.filter(pl.col("holdout_rank") == first_rank.over("user_id"))


def _candidates(
    rng: np.random.Generator, items: int, own: int | None, seen: np.ndarray, candidates: int | None
) -> np.ndarray:
    """Return row numbers of negatives: neither the positive nor anything the user has an event with."""
    excluded = seen if own is None else np.append(seen, own)
    if candidates is None:
        return np.setdiff1d(np.arange(items), excluded)
    # Draw enough that those to be excluded can be dropped; the rest is a uniform draw from what is left.
    drawn = rng.choice(items, size=min(items, candidates - 1 + len(excluded)), replace=False)
    return drawn[~np.isin(drawn, excluded)][: candidates - 1]


def _seen_rows(
    project: RankingProject, users: pl.Series, items: pl.Series, holdout: pl.DataFrame
) -> dict[str, np.ndarray]:
    index = items.to_frame().with_columns(row=pl.int_range(pl.len()))
    history = pl.scan_parquet(project.mart("interactions")).select("user_id", "item_id")
    events = pl.concat([history, holdout.lazy().select("user_id", "item_id")])
    rows = (
        events.filter(pl.col("user_id").is_in(users.implode()))
        .join(index.lazy(), on="item_id", how="inner")
        .group_by("user_id")
        .agg(pl.col("row").unique())
        .collect()
    )
    return {user: np.asarray(seen, dtype=np.int64) for user, seen in rows.iter_rows()}


def _protocol(candidates: int | None, users: int, shortest: int, longest: int) -> str:
    size = str(longest) if shortest == longest else f"{shortest} to {longest}"
    if candidates is None:
        return f"leave-last-out, {users:,} users, full ranking of {size} items (the user's other items left out)"
    return (
        f"leave-last-out, {users:,} users, {size} candidates each: the positive and uniform draws from the items "
        "the user has no event with"
    )
