"""Build the feature tables of one run from the reasoning pool, the matches and the marts."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import numpy as np
import polars as pl

from reland_features.columns import (
    FEATURE_TABLES,
    ITEM_ATTRIBUTES,
    SEED_RATIONALE,
    USER_ACTIVITY,
    USER_MATCH_DETAIL,
    USER_RATIONALE,
    USER_SEED_MATCH,
    Table,
)
from reland_features.errors import FeatureStoreError, TableError
from reland_features.fused_rationales import fused_rationales, seeds_of_users
from reland_features.prompts.template import step2_text
from reland_features.publishing import publish

__all__ = ["build_features", "conform", "item_text", "publish"]


def build_features(
    pool: pl.DataFrame,
    pool_version: str,
    matches: pl.DataFrame,
    users: pl.DataFrame,
    histories: pl.DataFrame,
    items: pl.DataFrame,
    item_text_embeddings: np.ndarray,
    *,
    as_of: datetime,
    created_at: datetime,
    match_detail: bool = False,
    temperature: float = 0.1,
    cold_start: Collection[str] = (),
) -> dict[str, pl.DataFrame]:
    """Make every table of `columns.FEATURE_TABLES`.

    Parameters
    ----------
    pool : polars.DataFrame
        Columns of `columns.POOL`.
    pool_version : str
        Version of the reasoning pool, stamped on every row made from it.
    matches : polars.DataFrame
        Columns of `columns.MATCHES`; only rank 1 is published, unless `match_detail` says otherwise.
    users, histories, items : polars.DataFrame
        The marts.
    item_text_embeddings : numpy.ndarray
        float32 [items.height, d] in the order of `items`: the text encoder of the pool over `item_text`.
    as_of, created_at : datetime
        UTC without a zone; event and created timestamp of every row.
    match_detail : bool
        Fuse the rationales of all ranks into the embedding and components of `user_rationale`, whose other
        columns stay those of the best seed, and make `columns.USER_MATCH_DETAIL` too.
    temperature : float
        Of the softmax over similarities, see `fused_rationales`.
    cold_start : collection of str
        Users that were matched by profile.

    Returns
    -------
    dict of str to polars.DataFrame
        One frame per feature table, in its schema. Users without a match have a row whose rationale
        columns are null, never those of a random seed.

    Raises
    ------
    TableError
        Embeddings and items differ in number, or the two kinds of text embeddings in width.
    FeatureStoreError
        Matches name seeds or users that are not there, or a user twice.
    """
    _check_embeddings(pool, items, item_text_embeddings)
    _check_matches(pool, matches, users)
    times = [pl.lit(as_of, pl.Datetime("us")).alias("event_timestamp"), _created(created_at)]
    version = pl.lit(pool_version).alias("pool_version")
    best = matches.filter(pl.col("rank") == 1).select("user_id", "seed_user_id", "similarity")
    matched = users.select("user_id").join(best, on="user_id", how="left", maintain_order="left")
    seeds = pool.select("seed_user_id", "cluster_id", "rationale_embedding", "rationale_components", "summary")
    wide = matched.join(seeds, on="seed_user_id", how="left", maintain_order="left")
    embeddings = pl.Series("item_text_embedding", np.ascontiguousarray(item_text_embeddings, dtype=np.float32))
    tables: tuple[Table, ...] = FEATURE_TABLES
    frames = {
        USER_RATIONALE.name: wide.with_columns(version, *times),
        USER_SEED_MATCH.name: wide.with_columns(version, *times),
        SEED_RATIONALE.name: pool.with_columns(version, *times),
        USER_ACTIVITY.name: _activity(users, histories, items).with_columns(times),
        ITEM_ATTRIBUTES.name: items.with_columns(embeddings.cast(pl.List(pl.Float32)), *times),
    }
    if match_detail:
        seeds_of = seeds_of_users(matches, temperature)
        fused = wide.drop("rationale_embedding", "rationale_components").join(
            fused_rationales(pool, seeds_of), on="user_id", how="left", maintain_order="left"
        )
        frames[USER_RATIONALE.name] = fused.with_columns(version, *times)
        detail = users.select("user_id").join(seeds_of, on="user_id", how="left", maintain_order="left")
        frames[USER_MATCH_DETAIL.name] = detail.with_columns(
            pl.col("seed_user_ids", "seed_weights").fill_null([]),
            pl.col("user_id").is_in(list(cold_start)).alias("is_cold_start"),
            version,
            *times,
        )
        tables = (USER_MATCH_DETAIL, *FEATURE_TABLES)
    return {table.name: conform(frames[table.name], table) for table in tables}


def item_text(items: pl.DataFrame) -> list[str]:
    """Return the text each item's embedding is made from.

    It has the form of a rationale's Step 2, categories first and then the title, so that items and
    rationales are encoded into the same region of the text encoder's space.
    """
    pairs = zip(items["categories"].to_list(), items["title"].to_list(), strict=True)
    return [step2_text(categories, [title]) for categories, title in pairs]


def conform(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Select and cast a table's columns and check its keys and nulls; raise `TableError`."""
    missing = [name for name in table.names if name not in frame.columns]
    if missing:
        raise TableError("a feature table lacks columns", where=table.name, got=frame.columns, expected=missing)
    frame = frame.select(table.names).cast(table.polars_schema())
    nulls = [column.name for column in table.columns if not column.nullable and frame[column.name].null_count()]
    if nulls:
        raise TableError("columns that are never null hold nulls", where=table.name, got=nulls)
    if frame.select(table.key).is_duplicated().any():
        raise TableError("a key occurs twice", where=table.name, expected=f"unique {', '.join(table.key)}")
    return frame


def _activity(users: pl.DataFrame, histories: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Add to each user which categories the history is made of; an item's weight is split over its own."""
    owned = items.select("item_id", pl.col("categories").list.unique(maintain_order=True).alias("category_names"))
    history = histories.select("user_id", pl.col("item_ids").alias("item_id"), length=pl.col("item_ids").list.len())
    shares = (
        history.explode("item_id")
        .join(owned, on="item_id", how="inner")
        .with_columns(share=1.0 / pl.col("category_names").list.len() / pl.col("length"))
        .explode("category_names")
        .drop_nulls("category_names")
        .group_by("user_id", "category_names")
        .agg(category_shares=pl.col("share").sum())
        .sort("user_id", -pl.col("category_shares").round(9), "category_names")
        .group_by("user_id", maintain_order=True)
        .agg("category_names", pl.col("category_shares").cast(pl.Float32))
    )
    empty = [pl.col("category_names").fill_null([]), pl.col("category_shares").fill_null([])]
    return users.join(shares, on="user_id", how="left", maintain_order="left").with_columns(empty)


def _created(created_at: datetime) -> pl.Expr:
    return pl.lit(created_at, pl.Datetime("us")).alias("created_timestamp")


def _check_embeddings(pool: pl.DataFrame, items: pl.DataFrame, embeddings: np.ndarray) -> None:
    if embeddings.ndim != 2 or len(embeddings) != items.height:
        raise TableError(
            "there is not one embedding per item", where="items", got=embeddings.shape, expected=(items.height, "d")
        )
    widths = set(pool["rationale_embedding"].list.len().to_list()) - {embeddings.shape[1]}
    if widths and items.height:
        raise TableError(
            "rationales and items were embedded by different text encoders",
            where="items",
            got=f"item embeddings of {embeddings.shape[1]} numbers",
            expected=f"{sorted(widths)} as in the pool",
            hint="encode the items with the text encoder named in the pool's manifest",
        )


def _check_matches(pool: pl.DataFrame, matches: pl.DataFrame, users: pl.DataFrame) -> None:
    seeds = matches["seed_user_id"].drop_nulls().unique()
    problems = {
        "seeds that are not in the pool": seeds.filter(~seeds.is_in(pool["seed_user_id"].to_list())),
        "users that are not in the users mart": matches["user_id"].filter(
            ~matches["user_id"].is_in(users["user_id"].to_list())
        ),
    }
    for what, ids in problems.items():
        if len(ids):
            raise FeatureStoreError(
                f"matches name {what}", where="matches", got=ids.head(5).to_list(), hint="reland match"
            )
