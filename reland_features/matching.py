"""Match every user to its most similar seed, Eq. (3), or to the k most similar ones.

The index proposes, full precision decides: the k + 1 best seeds of each user come from the index in
float32, and where two of them are closer than float32 can tell apart, all seeds are compared in float64. So
an exact index of any kind gives the same seed and similarity, bit by bit, and equal seeds are told
apart by the lowest seed id. All seeds are compared, too, where an approximate index found fewer than k.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.columns import MATCHES
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import EncoderMismatchError, PoolError
from reland_features.index.base import MAX_QUERIES, VectorIndex
from reland_features.pool import ReasoningPool, collection_name

_FLOAT32_CLOSE = 1e-6
_FLOAT64_EQUAL = 1e-12

Progress = Callable[[int, int], None]


def match_users(
    vectors: BehaviorVectors,
    pool: ReasoningPool,
    index: VectorIndex,
    *,
    prefix: str,
    users: pl.Series | None = None,
    k: int = 1,
    batch_size: int = 2048,
    on_progress: Progress | None = None,
) -> pl.DataFrame:
    """Return the most similar seeds of every user.

    Parameters
    ----------
    vectors : BehaviorVectors
        m_u; a NaN, infinite or zero vector is no vector.
    pool : ReasoningPool
        m_s; its collection must be installed in `index`.
    index : VectorIndex
        `MilvusIndex`, or `ExactIndex` as its oracle.
    prefix : str
        Of the collections' names.
    users : polars.Series, optional
        User ids that get rows, in this order; by default those of `vectors`.
    k : int
        Seeds per user; all of them where the pool has fewer. 1 is Eq. (3).
    batch_size : int
        Users per search.
    on_progress : callable, optional
        Called with (users done, users in all) after every batch.

    Returns
    -------
    polars.DataFrame
        `columns.MATCHES`, for every entry of `users` a row per seed, the best first. Users without a vector
        have one row, whose seed and similarity are null, which means "no match". A seed is its own match
        (similarity 1), unless a seed of a lower id has the same direction.

    Raises
    ------
    EncoderMismatchError
        The vectors were made by another encoder, or have another width.
    PoolError
        The index gave a seed that is not in the pool.
    """
    _check_encoder(vectors, pool)
    users = vectors.user_ids if users is None else users
    wanted = pl.DataFrame({"user_id": users}, schema={"user_id": pl.String})
    rows = pl.DataFrame({"user_id": vectors.user_ids, "row": np.arange(len(vectors.user_ids))})
    found = wanted.join(rows, on="user_id", how="left", maintain_order="left")["row"]
    positions = np.flatnonzero(found.is_not_null().to_numpy())
    positions = positions[_has_direction(vectors.vectors)[found.gather(positions).to_numpy()]]
    search = _Search(pool, index, prefix, k)
    best = np.full((len(wanted), search.k), -1, dtype=np.int64)
    similarity = np.full((len(wanted), search.k), np.nan, dtype=np.float32)
    step = min(batch_size, MAX_QUERIES)
    for start in range(0, len(positions), step):
        part = positions[start : start + step]
        best[part], similarity[part] = search(vectors.vectors[found.gather(part).to_numpy()])
        if on_progress:
            on_progress(start + len(part), len(positions))
    has_row = best >= 0
    has_row[:, 0] = True
    row_of, ranks = np.nonzero(has_row)
    matched = pl.Series(best[has_row] >= 0)
    seeds = pool.frame["seed_user_id"].gather(np.maximum(best[has_row], 0))
    return (
        wanted[row_of]
        .select(
            "user_id",
            pl.Series("rank", ranks + 1),
            pl.when(matched).then(seeds).alias("seed_user_id"),
            pl.when(matched).then(pl.Series(similarity[has_row])).alias("similarity"),
        )
        .cast(MATCHES.polars_schema())
    )


class _Search:
    """Eq. (3) for one batch after another: users' vectors [Q, d] → pool rows and similarities [Q, k]."""

    def __init__(self, pool: ReasoningPool, index: VectorIndex, prefix: str, k: int) -> None:
        self._index, self._collection = index, collection_name(prefix, pool.pool_version)
        self._ids = pool.frame["seed_user_id"]
        self._row_of = {seed: row for row, seed in enumerate(self._ids)}
        self._units = _unit(pool.vectors)
        self.k = min(k, len(self._ids))

    def __call__(self, queries: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        ids, cosines = self._index.search(self._collection, queries, self.k + 1)
        users = _unit(queries)
        best = np.array([[self._row(seed) for seed in found] for found in ids[:, : self.k]], dtype=np.int64)
        # An approximate index looks at a part of the seeds, whatever k is: IVF_FLAT into some of its cells.
        is_open = np.asarray((best < 0).any(axis=1))
        cosines = cosines[~is_open]
        is_open[~is_open] = (cosines[:, :-1] - cosines[:, 1:] <= _FLOAT32_CLOSE).any(axis=1)
        if is_open.any():
            best[is_open] = _exact_best(users[is_open], self._units, self.k)
        similarity = np.stack([np.einsum("ud,ud->u", users, self._units[rows]) for rows in best.T], axis=1)
        return best, np.clip(similarity, -1.0, 1.0).astype(np.float32)

    def _row(self, seed: str | None) -> int:
        """Return a seed's row in the pool, and -1 where the index found no further one."""
        if seed is None:
            return -1
        if seed not in self._row_of:
            raise PoolError(
                "the index does not hold this pool",
                where=f"collection {self._collection}",
                got=f"seed {seed!r}",
                expected=f"one of the pool's {len(self._ids)} seeds",
                hint="drop the collection and run again: it is loaded from the pool's table",
            )
        return self._row_of[seed]


def _exact_best(users: npt.NDArray[np.float64], seeds: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
    """Return, k times, the first seed row left whose cosine is the highest up to rounding of float64, int64 [Q, k]."""
    best = np.empty((len(users), k), dtype=np.int64)
    block = max(1, (1 << 23) // len(seeds))
    for start in range(0, len(users), block):
        cosines = users[start : start + block] @ seeds.T
        for rank in range(k):
            highest = cosines.max(axis=1, keepdims=True)
            found = (cosines >= highest - _FLOAT64_EQUAL).argmax(axis=1)
            best[start : start + block, rank] = found
            cosines[np.arange(len(found)), found] = -np.inf
    return best


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = vectors.astype(np.float64)
    result: npt.NDArray[np.float64] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return result


def _has_direction(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = np.logical_and(np.isfinite(vectors).all(axis=1), vectors.any(axis=1))
    return result


def _check_encoder(vectors: BehaviorVectors, pool: ReasoningPool) -> None:
    width = len(pool.frame["vector"][0])
    if vectors.encoder_id != pool.encoder_id or vectors.dimension != width:
        raise EncoderMismatchError(
            "users and seeds were encoded by different encoders",
            where=f"pool {pool.pool_version}",
            got=f"{vectors.encoder_id}, {vectors.dimension} wide",
            expected=f"{pool.encoder_id}, {width} wide",
            hint="run the stages from encode to pool again: reland run",
        )
