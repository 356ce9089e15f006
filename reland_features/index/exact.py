"""Search seed vectors completely, in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.index.base import check_rows, check_sizes, missing, refuse_aliased, unit


class ExactIndex:
    """Collections in memory, searched completely: the oracle of `MilvusIndex`; nothing is kept on disk."""

    def __init__(self) -> None:
        self._collections: dict[str, tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]] = {}
        self._aliases: dict[str, str] = {}

    def build(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> None:
        """Replace a collection by these rows."""
        rows = unit(vectors, f"collection {collection}")
        check_rows(collection, ids, rows)
        self._collections[collection] = (np.array(ids.to_list(), dtype=object), rows)

    def search(
        self, collection: str, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]:
        """Return ids and cosines by matrix product; equal cosines by row, the first one first."""
        check_sizes(queries, k)
        if (name := self._aliases.get(collection, collection)) not in self._collections:
            raise missing(collection, "memory")
        ids, vectors = self._collections[name]
        cosines = unit(queries, "queries") @ vectors.T
        every = np.arange(len(queries))
        found = np.full((len(queries), k), None, dtype=object)
        values = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for rank in range(min(k, len(ids))):  # k is small: no sorting
            best = cosines.argmax(axis=1)
            found[:, rank], values[:, rank] = ids[best], cosines[every, best]
            cosines[every, best] = -np.inf
        return found, values

    def size(self, collection: str) -> int | None:
        """Return the number of rows, or None."""
        rows = self._collections.get(self._aliases.get(collection, collection))
        return None if rows is None else len(rows[0])

    def holds(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> bool:
        """Say whether a collection has exactly these rows."""
        if collection not in self._collections:
            return False
        held_ids, held = self._collections[collection]
        rows = unit(vectors, f"collection {collection}")
        return held_ids.tolist() == ids.to_list() and np.array_equal(held, rows)

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
