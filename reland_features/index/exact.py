"""Search seed vectors completely, in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.index.base import check_sizes, missing, refuse_aliased, unit


class ExactIndex:
    """Collections in memory, searched completely: the oracle of `MilvusIndex`; nothing is kept on disk."""

    def __init__(self) -> None:
        self._collections: dict[str, tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]] = {}
        self._aliases: dict[str, str] = {}

    def build(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> None:
        """Replace a collection by these rows."""
        self._collections[collection] = (np.array(ids.to_list(), dtype=object), unit(vectors, collection))

    def search(
        self, collection: str, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]:
        """Return ids and cosines by matrix product; equal cosines by row, the first one first."""
        check_sizes(queries, k)
        if (name := self._aliases.get(collection, collection)) not in self._collections:
            raise missing(collection, "memory")
        ids, vectors = self._collections[name]
        cosines = unit(queries, "queries") @ vectors.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return _padded(ids[best], np.take_along_axis(cosines, best, axis=1), k)

    def size(self, collection: str) -> int | None:
        """Return the number of rows, or None."""
        rows = self._collections.get(self._aliases.get(collection, collection))
        return None if rows is None else len(rows[0])

    def drop(self, collection: str) -> None:
        """Delete a collection, if it is there."""
        refuse_aliased(collection, [a for a, target in self._aliases.items() if target == collection])
        self._collections.pop(collection, None)

    def alias(self, name: str) -> str | None:
        """Return the collection an alias points to."""
        return self._aliases.get(name)

    def set_alias(self, name: str, collection: str) -> None:
        """Point an alias to a collection."""
        if collection not in self._collections:
            raise missing(collection, "memory")
        self._aliases[name] = collection

    def close(self) -> None:
        """Nothing to release."""


def _padded(
    ids: npt.NDArray[np.object_], cosines: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]:
    spare = ((0, 0), (0, k - ids.shape[1]))
    return np.pad(ids, spare, constant_values=None), np.pad(cosines, spare, constant_values=-np.inf)
