"""Give a user several rationales: the k most similar seeds' embeddings, weighted by similarity, as one vector.

    w_j = softmax_j(cosine_j / temperature),   r_u = sum over j of w_j r_j

At k = 1 the weight is 1 and r_u is the rationale of Eq. (3), bit by bit.

The sum is not brought back to unit length. It stays a linear map of the seeds' embeddings, so a ranker may
project the pool's matrix once and mix afterwards, and principal components mix with the same weights. And its
length says how far the k rationales agree: 1 where they say the same. A cosine does not see the length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

_BLOCK = 8192


def seeds_of_users(matches: pl.DataFrame, temperature: float) -> pl.DataFrame:
    """Return the seeds of every matched user and what each counts.

    Parameters
    ----------
    matches : polars.DataFrame
        `columns.MATCHES`.
    temperature : float
        Above 0; the smaller, the more the best seed counts.

    Returns
    -------
    polars.DataFrame
        user_id; seed_user_ids, list of string, the best first; seed_weights, list of float32, the softmax over
        them: [1.0] where there is one.
    """
    cosine = pl.col("similarity").cast(pl.Float64)
    share = ((cosine - cosine.max().over("user_id")) / temperature).exp()
    return (
        matches.filter(pl.col("seed_user_id").is_not_null())
        .sort("rank", maintain_order=True)
        .with_columns(share=share)
        .group_by("user_id", maintain_order=True)
        .agg(
            seed_user_ids=pl.col("seed_user_id"),
            seed_weights=(pl.col("share") / pl.col("share").sum()).cast(pl.Float32),
        )
    )


def rows_and_weights(
    seed_user_ids: pl.Series, seed_weights: pl.Series, table: pl.Series
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lay lists out as matrices that point into a table of seeds.

    Parameters
    ----------
    seed_user_ids, seed_weights : polars.Series
        As of `seeds_of_users` [U], of equal lengths row by row; null or empty is none.
    table : polars.Series
        Distinct seed ids [S].

    Returns
    -------
    tuple of numpy.ndarray
        Rows of the table, int64 [U, k], -1 where there is no seed or the table does not have it; weights,
        float32 [U, k], 0 there. k is the longest list, at least 1.
    """
    counts = seed_user_ids.list.len().fill_null(0).to_numpy()
    has = np.arange(max(int(counts.max(initial=0)), 1)) < counts[:, None]
    rows, weights = np.full(has.shape, -1, dtype=np.int64), np.zeros(has.shape, dtype=np.float32)
    filled = pl.Series(counts > 0)
    wanted = pl.DataFrame({"seed": seed_user_ids.filter(filled).list.explode()}, schema={"seed": pl.String})
    index = pl.DataFrame({"seed": table, "row": np.arange(len(table))})
    found = wanted.join(index, on="seed", how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()
    rows[has] = found
    weights[has] = np.where(found >= 0, seed_weights.filter(filled).list.explode().to_numpy(), 0)
    return rows, weights


def fuse(
    table: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the weighted sum of each user's vectors, float32 [U, d]; zeros for a user without any.

    Parameters
    ----------
    table : numpy.ndarray
        float32 [S, d], a vector per seed.
    rows, weights : numpy.ndarray
        int64 and float32 [U, k] as of `rows_and_weights`.
    """
    fused = np.empty((len(rows), table.shape[1]), dtype=np.float32)
    shares = weights.astype(np.float64)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        # The first term is not added to a zero: at k = 1 even the sign of a zero stays.
        total = shares[part, :1] * table[rows[part, 0]]
        for rank in range(1, rows.shape[1]):
            total += shares[part, rank : rank + 1] * table[rows[part, rank]]
        fused[part] = total
    return fused


def fused_rationales(pool: pl.DataFrame, seeds_of: pl.DataFrame) -> pl.DataFrame:
    """Return what the wide layout publishes of several rationales.

    Parameters
    ----------
    pool : polars.DataFrame
        `columns.POOL`.
    seeds_of : polars.DataFrame
        As of `seeds_of_users`.

    Returns
    -------
    polars.DataFrame
        user_id, rationale_embedding, rationale_components: both fused by the same weights.
    """
    lists = seeds_of["seed_user_ids"], seeds_of["seed_weights"]
    rows, weights = rows_and_weights(*lists, pool["seed_user_id"])
    columns = {
        name: fuse(np.array(pool[name].to_list(), dtype=np.float32), rows, weights)
        for name in ("rationale_embedding", "rationale_components")
    }
    lists_of = {
        name: pl.Series(values, dtype=pl.Array(pl.Float32, values.shape[1])).arr.to_list()
        for name, values in columns.items()
    }
    return seeds_of.select("user_id").with_columns(**lists_of)
