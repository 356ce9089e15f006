"""Search seed vectors in Milvus: a Milvus Lite file or a server.

What Milvus does that one would not expect, and what is done about it here:

- A collection that a kill left half loaded looks like any other: it is loaded under another name and
  renamed when its rows are counted.
- A collection does not tell its vectors or its index's parameters: a hash of what `build` made it from is
  kept in its properties. One without that, or with another, is not what is asked for.
- Rows that are not flushed have no index; a collection must be loaded again after a restart; without
  strong consistency a server answers from before the last insert.
- Dropping a collection drops its aliases: `drop` refuses while there are any, and `build` moves them first.
- An empty `output_fields` returns every field, vectors included: the id is the primary key instead.
- NaN and zero queries get an arbitrary answer: both are refused.
- A Milvus Lite file belongs to one process: a second one gets `PoolInUseError` at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.artifacts import content_id
from reland_features.errors import PoolError, PoolInUseError
from reland_features.index.base import check_rows, check_sizes, missing, refuse_aliased, unit

_INSERT_ROWS = 4096
_STAGING = "__loading"
_HOLDS = "reland.holds"  # the property that says what a collection was built from
_ID, _VECTOR = "seed_user_id", "vector"
_PARAMETERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "FLAT": lambda n: {},
    "HNSW": lambda n: {"M": 16, "efConstruction": 200},
    "IVF_FLAT": lambda n: {"nlist": max(1, round(4 * n**0.5))},
    "AUTOINDEX": lambda n: {},
}
_SEARCH: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "FLAT": lambda n, k: {},
    "HNSW": lambda n, k: {"ef": max(64, 2 * k)},
    "IVF_FLAT": lambda n, k: {"nprobe": max(8, round(n**0.5 / 4))},
    "AUTOINDEX": lambda n, k: {},
}


def check_free(uri: str) -> None:
    """Raise PoolInUseError where another process has the Milvus Lite file open; return at once otherwise.

    Milvus Lite itself takes an advisory lock, but only logs that it did not get it.
    """
    lock = Path(uri) / "LOCK"
    if "://" in uri or str(Path(uri).absolute()) in _open or not lock.exists():
        return
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PoolInUseError(
            "the Milvus Lite file is open in another process",
            where=uri,
            got=f"a lock on {lock}",
            expected="one process per file",
            hint="wait for it or stop it, or start a Milvus server: --set pool.uri=http://localhost:19530",
        ) from error
    finally:
        os.close(descriptor)


_open: dict[str, int] = {}
"""Milvus Lite files open in this process and how often; the last `close` stops the server."""
_open_lock = threading.Lock()


class MilvusIndex:
    """Collections in Milvus, compared by inner product of unit vectors.

    Parameters
    ----------
    uri : str
        A Milvus Lite path ending in ``.db`` (its folder is made), or a server's address.
    token : str
        Of a server.
    index : str
        FLAT, HNSW, IVF_FLAT or AUTOINDEX. All but FLAT are approximate.

    Raises
    ------
    PoolInUseError
        Another process has the file open.
    PoolError
        Milvus cannot be opened.
    """

    def __init__(self, uri: str | Path, token: str = "", index: str = "FLAT") -> None:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        self._uri, self._index = str(uri), index
        self._file = "" if "://" in self._uri else str(Path(self._uri).absolute())
        if self._file and not self._file.endswith(".db"):
            raise PoolError(
                "this is neither a Milvus Lite file nor an address",
                where="pool.uri",
                got=self._uri,
                expected="a path ending in .db, or http://host:19530",
                hint="--set pool.uri=pool/milvus.db",
            )
        self._sizes: dict[str, int] = {}  # of loaded collections
        with _open_lock:
            if self._file:
                check_free(self._file)
                Path(self._file).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._client = MilvusClient(self._file or self._uri, token=token)
            except MilvusException as error:
                if self._file:
                    check_free(self._file)  # another process may have come first
                raise PoolError(
                    "Milvus cannot be opened", where=self._uri, got=error.message, hint="check pool.uri and pool.token"
                ) from error
            if self._file:
                _open[self._file] = _open.get(self._file, 0) + 1

    def build(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> None:
        """Load the rows under another name, count them, and put them in the collection's place."""
        from pymilvus import DataType

        rows = unit(vectors, f"collection {collection}")
        width = check_rows(collection, ids, rows)
        staging = collection + _STAGING
        if self._aliases_of(staging):  # it was finished, and a kill came while it took the collection's place
            self._replace(collection, staging)
        self._client.drop_collection(staging)
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_ID, DataType.VARCHAR, is_primary=True, max_length=max(width, 64))
        schema.add_field(_VECTOR, DataType.FLOAT_VECTOR, dim=rows.shape[1])
        self._client.create_collection(
            staging, schema=schema, consistency_level="Strong", properties={_HOLDS: self._content(ids, vectors)}
        )
        for start in range(0, len(rows), _INSERT_ROWS):
            part = slice(start, start + _INSERT_ROWS)
            data = [{_ID: key, _VECTOR: row} for key, row in zip(ids[part], rows[part], strict=True)]
            self._client.insert(staging, data)
        self._client.flush(staging)
        parameters = self._client.prepare_index_params()
        parameters.add_index(
            _VECTOR, index_type=self._index, metric_type="IP", params=_PARAMETERS[self._index](len(rows))
        )
        # Milvus Lite indexes at once; asking it whether it is done logs a traceback
        self._client.create_index(staging, parameters, sync=not self._file)
        self._client.load_collection(staging)
        if (count := self._count(staging)) != len(rows):
            raise PoolError("Milvus lost rows while loading", where=staging, got=count, expected=len(rows))
        self._replace(collection, staging)

    def search(
        self, collection: str, queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]:
        """Return ids and cosines; see `VectorIndex.search`. At most 16,384 queries and k at once."""
        check_sizes(queries, k)
        rows = unit(queries, "queries")
        self._load(collection)
        size = self._sizes[collection]
        found = self._client.search(
            collection,
            data=list(rows),
            anns_field=_VECTOR,
            limit=min(k, size),
            search_params={"metric_type": "IP", "params": _SEARCH[self._index](size, k)},
            output_fields=[_ID],
            consistency_level="Strong",
        )
        ids = np.full((len(rows), k), None, dtype=object)
        cosines = np.full((len(rows), k), -np.inf, dtype=np.float32)
        for row, hits in enumerate(found):
            for column, hit in enumerate(hits):
                ids[row, column], cosines[row, column] = hit[_ID], hit["distance"]
        return ids, cosines

    def size(self, collection: str) -> int | None:
        """Return the number of rows counted by a strongly consistent query, or None."""
        if not self._client.has_collection(collection):
            return None
        self._load(collection)
        return self._count(collection)

    def holds(self, collection: str, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> bool:
        """Say whether a collection was built from these rows, for the index type that is configured now."""
        if not self._client.has_collection(collection):
            return False
        properties = self._client.describe_collection(collection).get("properties") or {}
        return properties.get(_HOLDS) == self._content(ids, vectors) and self.size(collection) == len(ids)

    def drop(self, collection: str) -> None:
        """Delete a collection, if it is there; refuse while an alias points to it."""
        if self._client.has_collection(collection):
            refuse_aliased(collection, self._aliases_of(collection))
            self._client.drop_collection(collection)
            self._sizes.pop(collection, None)

    def alias(self, name: str) -> str | None:
        """Return the collection an alias points to."""
        if name not in self._client.list_aliases()["aliases"]:
            return None
        return str(self._client.describe_alias(name)["collection_name"])

    def set_alias(self, name: str, collection: str) -> None:
        """Point an alias, new or not, to a collection."""
        if not self._client.has_collection(collection):
            raise missing(collection, self._uri)
        if self.alias(name) is None:
            self._client.create_alias(collection, name)
        else:
            self._client.alter_alias(collection, name)
        self._sizes.pop(name, None)

    def close(self) -> None:
        """Close the connection and, where this was the file's last user, stop its server."""
        if not self._client:
            return
        self._client.close()
        self._client = None
        with _open_lock:
            if self._file:
                _open[self._file] -= 1
                if not _open[self._file]:
                    from milvus_lite.server_manager import server_manager_instance  # type: ignore[import-untyped]

                    del _open[self._file]
                    server_manager_instance.release_server(self._file)

    def _replace(self, collection: str, staging: str) -> None:
        """Put a finished collection in another's place, its aliases first: at no moment does one point to nothing."""
        for alias in self._aliases_of(collection):
            self._client.alter_alias(staging, alias)
        self._client.drop_collection(collection)
        self._client.rename_collection(staging, collection)
        self._sizes.clear()

    def _content(self, ids: pl.Series, vectors: npt.NDArray[np.float32]) -> str:
        values = np.ascontiguousarray(vectors, dtype=np.float32)
        digest = hashlib.blake2b(values.tobytes(), digest_size=32).hexdigest()
        index = [self._index, _PARAMETERS[self._index](len(values))]
        return content_id([index, ids.to_list(), values.shape, digest], length=32)

    def _load(self, collection: str) -> None:
        """Load a collection, which a restart undoes, and count it; once is enough, as rows never change."""
        if collection not in self._sizes:
            if not self._client.has_collection(collection):
                raise missing(collection, self._uri)
            self._client.load_collection(collection)
            self._sizes[collection] = self._count(collection)

    def _count(self, collection: str) -> int:
        rows = self._client.query(collection, output_fields=["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def _aliases_of(self, collection: str) -> list[str]:
        if not self._client.has_collection(collection):
            return []
        return list(self._client.list_aliases(collection)["aliases"])
