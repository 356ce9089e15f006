"""The tables that requests about seed users are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from reland_features.artifacts import Artifact


@dataclass(frozen=True)
class SeedTables:
    """Who is asked about, what prompts show, and what no answer may recommend.

    Parameters
    ----------
    seeds : polars.DataFrame
        `columns.SEED_USERS`; of it only `user_id` is read.
    histories : polars.DataFrame
        `columns.USER_HISTORIES`: the last `data.max_history` items, what a prompt may show. Users besides the seeds
        are passed over.
    items : polars.DataFrame
        `columns.ITEMS`.
    seen : polars.DataFrame
        Every item that a seed has interacted with, as `items_seen` gives it.
    """

    seeds: pl.DataFrame
    histories: pl.DataFrame
    items: pl.DataFrame
    seen: pl.DataFrame

    @classmethod
    def read(cls, marts: Artifact, seeds: pl.DataFrame) -> SeedTables:
        """Read the tables of `seeds` from the marts; those of other users stay on the disk."""
        users = seeds["user_id"]
        histories = pl.scan_parquet(marts.table("user_histories")).filter(pl.col("user_id").is_in(users.implode()))
        items = pl.read_parquet(marts.table("items"))
        return cls(seeds, histories.collect(), items, items_seen(pl.scan_parquet(marts.table("interactions")), users))


def items_seen(interactions: pl.LazyFrame, users: Iterable[str]) -> pl.DataFrame:
    """Return the distinct items of every user's whole history, in the order they were met first.

    Parameters
    ----------
    interactions : polars.LazyFrame
        `columns.INTERACTIONS`.
    users : iterable of str
        Users without an interaction have no row.

    Returns
    -------
    polars.DataFrame
        `user_id`, and `item_ids` as a list.
    """
    wanted = pl.Series("user_id", list(users), dtype=pl.String)
    return (
        interactions.filter(pl.col("user_id").is_in(wanted.implode()))
        .sort("user_id", "interaction_order")
        .group_by("user_id", maintain_order=True)
        .agg(item_ids=pl.col("item_id").unique(maintain_order=True))
        .collect()
    )
