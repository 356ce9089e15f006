"""The reasoning pool: for every seed user its behaviour vector, its rationale and the rationale's embedding."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reland_features.artifacts import content_id, write_atomically
from reland_features.columns import POOL
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import PoolError
from reland_features.index.base import VectorIndex

TABLE = "reasoning_pool.parquet"
MANIFEST = "pool.json"


@dataclass(frozen=True)
class ReasoningPool:
    """Seeds with a usable rationale, and what they were made with.

    Parameters
    ----------
    frame : polars.DataFrame
        `columns.POOL`, ascending by seed_user_id.
    pool_version : str
        Names the Milvus collection and stands in every published row.
    encoder_id : str
        Encoder of the seed vectors; only its vectors can be matched.
    ids : mapping
        prompt_id, engine_id and text_encoder_id.
    as_of : datetime
        The last instant of behaviour used (UTC).
    """

    frame: pl.DataFrame
    pool_version: str
    encoder_id: str
    ids: Mapping[str, str]
    as_of: datetime

    @property
    def vectors(self) -> np.ndarray:
        """Seed vectors m_s, float32 [S, d]."""
        return matrix(self.frame["vector"])

    @property
    def embeddings(self) -> np.ndarray:
        """Rationale embeddings, float32 [S, e]."""
        return matrix(self.frame["rationale_embedding"])

    @property
    def manifest(self) -> dict[str, Any]:
        """Everything but the rows, as JSON-able values."""
        return {
            "pool_version": self.pool_version,
            "encoder_id": self.encoder_id,
            "ids": dict(self.ids),
            "as_of": self.as_of.isoformat(),
            "seeds": self.frame.height,
        }

    def write(self, folder: Path) -> None:
        """Write the rows and the manifest into a folder; the manifest comes last."""
        self.frame.write_parquet(folder / TABLE)
        write_atomically(folder / MANIFEST, json.dumps(self.manifest, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> ReasoningPool:
        """Read what `write` wrote.

        Raises
        ------
        PoolError
            There is no pool, or its rows are not those that the manifest counted.
        """
        if not (folder / MANIFEST).is_file() or not (folder / TABLE).is_file():
            raise PoolError(
                "there is no reasoning pool", where=str(folder), expected=f"{TABLE} and {MANIFEST}", hint="reland run"
            )
        manifest = json.loads((folder / MANIFEST).read_text())
        frame = pl.read_parquet(folder / TABLE)
        if frame.height != manifest["seeds"] or frame.columns != POOL.names:
            raise PoolError(
                "the reasoning pool is not what its manifest says",
                where=str(folder),
                got=f"{frame.height} rows of {', '.join(frame.columns)}",
                expected=f"{manifest['seeds']} rows of {', '.join(POOL.names)}",
                hint=f"rm -r {folder} and run again",
            )
        as_of = datetime.fromisoformat(manifest["as_of"])
        return cls(frame, manifest["pool_version"], manifest["encoder_id"], manifest["ids"], as_of)


def build_pool(
    rationales: pl.DataFrame,
    seeds: pl.DataFrame,
    vectors: BehaviorVectors,
    embeddings: np.ndarray,
    *,
    components: int,
    ids: Mapping[str, str],
    pool_version: str | None = None,
    basis: np.ndarray | None = None,
) -> ReasoningPool:
    """Put vector, rationale, embedding and components of every seed with a usable rationale side by side.

    Parameters
    ----------
    rationales : polars.DataFrame
        `columns.RATIONALES`; rows whose status is not ok do not enter.
    seeds : polars.DataFrame
        `columns.SEED_USERS`.
    vectors : BehaviorVectors
        Of all users, or at least of the seeds.
    embeddings : numpy.ndarray
        float32 [R, e], one row per *ok* rationale in their order.
    components : int
        Width of `rationale_components`; see `principal_components`.
    ids : mapping
        prompt_id, engine_id and text_encoder_id.
    pool_version : str, optional
        By default a hash of everything above.
    basis : numpy.ndarray, optional
        float32 [B, e], what `rationale_components` are fitted on: the embeddings before anything was blocked
        or edited, so that such a decision moves no component of another seed. By default `embeddings`.

    Raises
    ------
    PoolError
        No rationale is ok; embeddings do not fit them; a seed has no cluster or vector.
    """
    usable = rationales.filter(pl.col("status") == "ok")
    if usable.height == 0:
        raise PoolError(
            "no seed user has a usable rationale",
            where="pool",
            got=f"{rationales.height} rationales, none ok",
            expected="at least one with status ok",
            hint="look at the column `reason` of the rationales table, then reland generate",
        )
    if embeddings.ndim != 2 or len(embeddings) != usable.height or not np.isfinite(embeddings).all():
        raise PoolError(
            "the embeddings are not those of the rationales",
            where="pool",
            got=f"shape {embeddings.shape}" + ("" if np.isfinite(embeddings).all() else " with NaN or infinity"),
            expected=f"({usable.height}, width): a finite row per rationale with status ok",
        )
    behavior = pl.DataFrame({"user_id": vectors.user_ids, "vector": _lists(vectors.vectors)})
    frame = (
        usable.select("seed_user_id", "summary", "categories", "items")
        .with_columns(
            _lists(embeddings).alias("rationale_embedding"),
            _lists(principal_components(embeddings, components, basis)).alias("rationale_components"),
        )
        .join(seeds.select("user_id", "cluster_id"), left_on="seed_user_id", right_on="user_id", how="left")
        .join(behavior, left_on="seed_user_id", right_on="user_id", how="left")
        .select(POOL.names)
        .cast(POOL.polars_schema())
        .sort("seed_user_id")
    )
    _check_complete(frame, usable.height)
    said = frame.select("seed_user_id", "cluster_id", "summary", "categories", "items").rows()
    made_with = [vectors.encoder_id, vectors.as_of.isoformat(), dict(ids), components]
    version = pool_version or content_id([made_with, said])
    return ReasoningPool(frame, version, vectors.encoder_id, dict(ids), vectors.as_of)


def principal_components(embeddings: np.ndarray, components: int, basis: np.ndarray | None = None) -> np.ndarray:
    """Return the leading principal components (scikit-learn's PCA), float32 [n, components].

    They are those of `basis`, float32 [B, e], by default of the embeddings themselves. There are at most
    min(B - 1, e) of them; what is missing is 0. The sign of a component is fixed by its largest loading, so
    the same embeddings give the same columns.
    """
    from sklearn.decomposition import PCA

    basis = embeddings if basis is None else basis
    result = np.zeros((len(embeddings), components), dtype=np.float32)
    count = min(components, len(basis) - 1, embeddings.shape[1])
    varies = bool((basis != basis[:1]).any())  # a constant answer has no variance to explain
    if count > 0 and varies:
        model = PCA(count, svd_solver="full").fit(basis.astype(np.float64))
        result[:, :count] = model.transform(embeddings.astype(np.float64))
    return result


def collection_name(prefix: str, pool_version: str) -> str:
    """Return the Milvus collection of a pool version; what Milvus does not allow in a name becomes _."""
    return f"{prefix}_{re.sub(r'[^A-Za-z0-9_]', '_', pool_version)}"


def live_alias(prefix: str) -> str:
    """Return the alias of the collection that users are matched against."""
    return f"{prefix}_live"


def install(pool: ReasoningPool, index: VectorIndex, prefix: str) -> str:
    """Load the seed vectors into the pool version's collection, unless they are there; return its name.

    A collection of other seeds, vectors or another kind of index is loaded again: a pool version is a name, and the
    server or file may have kept what another project, or this one before its artifacts were deleted, had under it.
    """
    collection = collection_name(prefix, pool.pool_version)
    seeds, vectors = pool.frame["seed_user_id"], pool.vectors
    if not index.holds(collection, seeds, vectors):
        index.build(collection, seeds, vectors)
    return collection


def promote(pool_version: str, index: VectorIndex, prefix: str) -> None:
    """Make a pool version the live one and remember the one before; promoting it again changes nothing.

    Raises
    ------
    PoolError
        The version is not installed.
    """
    collection, live = collection_name(prefix, pool_version), live_alias(prefix)
    if index.size(collection) is None:
        raise PoolError(
            "this pool version is not installed", where=prefix, got=pool_version, expected=collection, hint="reland run"
        )
    now = index.alias(live)
    if now == collection:
        return
    if now is not None:
        index.set_alias(_previous_alias(prefix), now)
    index.set_alias(live, collection)


def rollback(index: VectorIndex, prefix: str) -> str:
    """Make the pool version that was live before the live one again; return its collection.

    Raises
    ------
    PoolError
        No version was live before.
    """
    live, previous = live_alias(prefix), _previous_alias(prefix)
    now, before = index.alias(live), index.alias(previous)
    if before is None or now is None or before == now:
        raise PoolError("there is no earlier pool to go back to", where=live, got=f"live: {now}, before: {before}")
    index.set_alias(live, before)
    index.set_alias(previous, now)
    return before


def _previous_alias(prefix: str) -> str:
    return f"{prefix}_previous"


def _lists(values: np.ndarray) -> pl.Series:
    array = np.ascontiguousarray(values, dtype=np.float32)
    return pl.Series(array, dtype=pl.Array(pl.Float32, array.shape[1])).arr.to_list()


def matrix(lists: pl.Series) -> np.ndarray:
    """Return lists of one width as float32 [N, width]."""
    width = len(lists[0])
    return np.ascontiguousarray(lists.explode(empty_as_null=False).to_numpy().reshape(len(lists), width))


def _check_complete(frame: pl.DataFrame, expected: int) -> None:
    nulls = {c.name: frame[c.name].null_count() for c in POOL.columns if frame[c.name].null_count()}
    duplicates = frame.height - frame["seed_user_id"].n_unique()
    if nulls or duplicates or frame.height != expected:
        incomplete = frame.filter(pl.any_horizontal(pl.all().is_null()))["seed_user_id"].head(3).to_list()
        raise PoolError(
            "seeds of the reasoning pool are incomplete",
            where="pool",
            got=f"{frame.height} rows, {duplicates} duplicates, nulls {nulls}, for example {incomplete}",
            expected=f"{expected} distinct seeds with cluster, vector, summary, categories and items",
            hint="encode, sample and generate must come from the same run: reland run",
        )
