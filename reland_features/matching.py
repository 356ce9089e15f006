"""Match every user to its most similar seed, Eq. (3).

The index proposes, full precision decides: the two best seeds of each user come from the index in
float32, and where they are closer than float32 can tell apart, all seeds are compared in float64. So
an exact index of any kind gives the same seed and similarity, bit by bit, and equal seeds are told
apart by the lowest seed id.
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
    batch_size: int = 2048,
    on_progress: Progress | None = None,
) -> pl.DataFrame:
    """Return the most similar seed of every user.

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
        User ids that get a row each, in this order; by default those of `vectors`.
    batch_size : int
        Users per search.
    on_progress : callable, optional
        Called with (users done, users in all) after every batch.

    Returns
    -------
    polars.DataFrame
        `columns.MATCHES`, one row per entry of `users`. Seed and similarity are null, which means "no
        match", for users without a vector. A seed is its own match (similarity 1), unless a seed of
        a lower id has the same direction.

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
    best = np.full(len(wanted), -1, dtype=np.int64)
    similarity = np.full(len(wanted), np.nan, dtype=np.float32)
    search = _Search(pool, index, prefix)
    step = min(batch_size, MAX_QUERIES)
    for start in range(0, len(positions), step):
        part = positions[start : start + step]
        best[part], similarity[part] = search(vectors.vectors[found.gather(part).to_numpy()])
        if on_progress:
            on_progress(start + len(part), len(positions))
    matched = pl.Series(best >= 0)
    seeds = pool.frame["seed_user_id"].gather(np.maximum(best, 0))
    return wanted.select(
        "user_id",
        pl.lit(1, pl.Int32).alias("rank"),
        pl.when(matched).then(seeds).alias("seed_user_id"),
        pl.when(matched).then(pl.Series(similarity)).alias("similarity"),
    ).cast(MATCHES.polars_schema())


class _Search:
    """Eq. (3) for one batch after another: users' vectors → pool rows and similarities."""

    def __init__(self, pool: ReasoningPool, index: VectorIndex, prefix: str) -> None:
        self._index, self._collection = index, collection_name(prefix, pool.pool_version)
        self._ids = pool.frame["seed_user_id"]
        self._row_of = {seed: row for row, seed in enumerate(self._ids)}
        self._units = _unit(pool.vectors)

    def __call__(self, queries: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        ids, cosines = self._index.search(self._collection, queries, 2)
        users = _unit(queries)
        best = np.array([self._row(seed) for seed in ids[:, 0]], dtype=np.int64)
        close = np.flatnonzero(cosines[:, 0] - cosines[:, 1] <= _FLOAT32_CLOSE)
        if close.size:
            best[close] = _exact_best(users[close], self._units)
        similarity = np.einsum("ud,ud->u", users, self._units[best])
        return best, np.clip(similarity, -1.0, 1.0).astype(np.float32)

    def _row(self, seed: str | None) -> int:
        if seed is None or seed not in self._row_of:
            raise PoolError(
                "the index does not hold this pool",
                where=f"collection {self._collection}",
                got=f"seed {seed!r}",
                expected=f"one of the pool's {len(self._ids)} seeds",
                hint="drop the collection and run again: it is loaded from the pool's table",
            )
        return self._row_of[seed]


def _exact_best(users: npt.NDArray[np.float64], seeds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the first seed row whose cosine is the highest up to rounding of float64, int64 [Q]."""
    best = np.empty(len(users), dtype=np.int64)
    block = max(1, (1 << 23) // len(seeds))
    for start in range(0, len(users), block):
        cosines = users[start : start + block] @ seeds.T
        highest = cosines.max(axis=1, keepdims=True)
        best[start : start + block] = (cosines >= highest - _FLOAT64_EQUAL).argmax(axis=1)
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
