"""What every index of seed vectors does."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.errors import PoolError

MAX_QUERIES = 16_384
MAX_K = 16_384
MAX_ID_BYTES = 65_535


class VectorIndex(Protocol):
    """Named collections of unit vectors, and aliases of them."""

    def build(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> None:
        """Replace a collection by these rows; its aliases stay. Vectors [S, d] of any length."""
        ...

    def search(
        self, collection: str, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]:
        """Return ids, object [Q, k], and cosines, float32 [Q, k], best first.

        Where fewer than k rows are found the rest is None and -inf.
        """
        ...

    def size(self, collection: str) -> int | None:
        """Return the number of rows, or None where there is no such collection."""
        ...

    def holds(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> bool:
        """Say whether a collection is what `build` would make of these rows now."""
        ...

    def drop(self, collection: str) -> None:
        """Delete a collection, if it is there; refuse while an alias points to it."""
        ...

    def alias(self, name: str) -> str | None:
        """Return the collection an alias points to."""
        ...

    def set_alias(self, name: str, collection: str) -> None:
        """Point an alias, new or not, to a collection."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


def unit(vectors: npt.NDArray[np.float32], where: str) -> npt.NDArray[np.float32]:
    """Return the rows at length 1, float32 [n, d]; raise PoolError for NaN, infinite and zero rows."""
    values = np.asarray(vectors, dtype=np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise PoolError("these are no vectors", where=where, got=f"shape {values.shape}", expected="[n, d], none 0")
    lengths = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        raise PoolError(
            "vectors without a direction cannot be compared",
            where=where,
            got=f"{int(bad.sum())} of {len(values)} rows NaN, infinite or zero, the first is row {int(bad.argmax())}",
            expected="finite rows that are not zero",
        )
    result: npt.NDArray[np.float32] = (values / lengths).astype(np.float32)
    return result


def check_rows(collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> int:
    """Return the bytes of the longest id; raise PoolError unless there is one distinct id per vector."""
    width = max((len(value.encode()) for value in ids), default=0)
    if len(ids) != len(vectors) or ids.n_unique() != len(ids) or width > MAX_ID_BYTES:
        raise PoolError(
            "these rows cannot be indexed",
            where=f"collection {collection}",
            got=f"{len(ids)} ids, {ids.n_unique()} distinct, up to {width} bytes; {len(vectors)} vectors",
            expected=f"one distinct id of at most {MAX_ID_BYTES} bytes per vector",
        )
    return width


def check_sizes(queries: npt.NDArray[np.float32], k: int) -> None:
    """Raise PoolError for no query, or more than a Milvus server takes at once."""
    if not 1 <= len(queries) <= MAX_QUERIES or not 1 <= k <= MAX_K:
        raise PoolError(
            "a search is too large or empty",
            where="index",
            got=f"{len(queries)} queries, k = {k}",
            expected=f"1 to {MAX_QUERIES} queries, k from 1 to {MAX_K}",
            hint="--set match.batch_size=2048",
        )


def missing(collection: str, where: str) -> PoolError:
    """Return the error of a collection that is not there."""
    return PoolError("there is no such collection", where=where, got=collection, hint="reland run")


def refuse_aliased(collection: str, aliases: list[str]) -> None:
    """Raise PoolError where a collection to be dropped has aliases, which would go with it."""
    if aliases:
        raise PoolError(
            "a collection that an alias points to is not dropped",
            where=collection,
            got=f"alias {', '.join(aliases)}",
            expected="no alias",
            hint="promote another pool version first",
        )
