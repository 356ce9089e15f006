"""Which seeds a user inherits from and what each counts, from a row of `USER_SERVICE`, joined or read online.

With `match.top_k` above 1 they are several, as `user_match_detail` publishes them; elsewhere it is the best seed.
"""

from __future__ import annotations

import numpy as np
import polars as pl

_SEED, _POOL = "user_seed_match__seed_user_id", "user_seed_match__pool_version"
SEEDS = "user_match_detail__seed_user_ids"
_WEIGHTS, _DETAIL_POOL = "user_match_detail__seed_weights", "user_match_detail__pool_version"


def seed_lists(users: pl.DataFrame) -> pl.DataFrame:
    """Return the seeds of each user.

    Parameters
    ----------
    users : polars.DataFrame
        The features of `USER_SERVICE`. Details of another pool than the match's, as after going back to a run
        that has none, do not count.

    Returns
    -------
    polars.DataFrame
        One row a user: seed_user_ids (list of string, the best first, empty for none), seed_weights (list of
        float32, of any sum above 0) and pool_version.
    """
    seed = pl.col(_SEED).cast(pl.String)
    best = users.select(
        seed_user_ids=pl.when(seed.is_null()).then(pl.lit([], pl.List(pl.String))).otherwise(pl.concat_list(seed)),
        seed_weights=pl.when(seed.is_null())
        .then(pl.lit([], pl.List(pl.Float32)))
        .otherwise(pl.concat_list(pl.lit(1.0, pl.Float32))),
        pool_version=pl.col(_POOL).cast(pl.String),
    )
    if SEEDS not in users.columns:
        return best
    # A store without any answers with a column of no type, and an unmatched user with null or with an empty list.
    given = users.select(
        ids=pl.col(SEEDS).cast(pl.List(pl.String)),
        weights=pl.col(_WEIGHTS).cast(pl.List(pl.Float32)),
        pool=pl.col(_DETAIL_POOL).cast(pl.String),
    )
    several = ((pl.col("ids").list.len() > 0) & (pl.col("pool") == pl.col("pool_version"))).fill_null(False)
    return pl.concat([best, given], how="horizontal").select(
        pl.when(several).then("ids").otherwise("seed_user_ids").alias("seed_user_ids"),
        pl.when(several).then("weights").otherwise("seed_weights").alias("seed_weights"),
        "pool_version",
    )


def rows_and_shares(users: pl.DataFrame, seeds: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Lay the seeds of users out as rows of a table.

    Parameters
    ----------
    users : polars.DataFrame
        The features of `USER_SERVICE` [U].
    seeds : polars.DataFrame
        seed_user_id and pool_version, each pair once, in the order of the table's rows.

    Returns
    -------
    tuple of numpy.ndarray
        Rows of the table, int64 [U, k], -1 where there is none or the table does not have it, and what each
        counts, float32 [U, k], summing to 1 over those that there are.
    """
    lists = seed_lists(users)
    counts = lists["seed_user_ids"].list.len().to_numpy()
    has = np.arange(max(int(counts.max(initial=0)), 1)) < counts[:, None]
    rows, weights = np.full(has.shape, -1, dtype=np.int64), np.zeros(has.shape, dtype=np.float32)
    index = seeds.select(pl.col("seed_user_id", "pool_version").cast(pl.String)).with_row_index("row")
    long = lists.filter(pl.Series(counts > 0)).explode("seed_user_ids", "seed_weights")
    keys = long.select("pool_version", seed_user_id="seed_user_ids")
    found = keys.join(index, on=["seed_user_id", "pool_version"], how="left", maintain_order="left")["row"]
    rows[has] = found.cast(pl.Int64).fill_null(-1).to_numpy()
    weights[has] = long["seed_weights"].to_numpy()
    return rows, shares(rows, weights)


def shares(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weights [U, k] that sum to 1 over the seeds that are there, float32; zeros where `rows` is -1."""
    kept = np.where(rows >= 0, weights, 0.0)
    total = kept.sum(axis=1, keepdims=True)
    return np.divide(kept, total, out=np.zeros_like(kept), where=total > 0).astype(np.float32)
