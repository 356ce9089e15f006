"""The live pool: the one that the Milvus alias points to, which is that of the last run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from reland_features.artifacts import Artifact, write_atomically
from reland_features.pool import ReasoningPool, install, promote
from reland_features.project import Project

if TYPE_CHECKING:
    from reland_features.index import ExactIndex, MilvusIndex

FILE = "live_pool.json"
"""File in a project's `.reland` folder: the pool that it promoted last."""


def open_index(project: Project) -> ExactIndex | MilvusIndex:
    """Open the index that users are matched in; close it after use."""
    from reland_features.index import ExactIndex, MilvusIndex

    settings = project.config.pool
    if project.config.match.matcher == "exact":
        return ExactIndex()
    return MilvusIndex(project.pool_uri, settings.token, settings.index)


def make_live(project: Project, pool: ReasoningPool, index: ExactIndex | MilvusIndex) -> None:
    """Promote an installed pool and note that it is live."""
    settings, note = project.config.pool, project.state / FILE
    if project.config.match.matcher == "exact":  # in memory: the alias is gone with the index
        promote(pool.pool_version, index, settings.collection_prefix)
        return
    note.unlink(missing_ok=True)  # first, so that a kill leaves no note of a pool that is live no longer
    promote(pool.pool_version, index, settings.collection_prefix)
    write_atomically(note, json.dumps(_noted(project, pool.pool_version)) + "\n")


def keep_live(project: Project, pool: Artifact) -> None:
    """Promote the pool of finished matches unless it is live: another one may have been since they were made.

    To ask Milvus takes seconds, and most runs that find their matches finished find this pool live: the note says so.
    """
    note = project.state / FILE
    is_live = note.is_file() and json.loads(note.read_text()) == _noted(project, pool.manifest["pool_version"])
    is_there = "://" in project.pool_uri or Path(project.pool_uri).exists()  # a file may have been deleted
    if (is_live and is_there) or project.config.match.matcher == "exact":
        return
    reasoning_pool, index = ReasoningPool.read(pool.path), open_index(project)
    try:
        install(reasoning_pool, index, project.config.pool.collection_prefix)
        make_live(project, reasoning_pool, index)
    finally:
        index.close()


def _noted(project: Project, pool_version: str) -> dict[str, str]:
    settings = project.config.pool
    return {
        "uri": settings.uri,
        "collection_prefix": settings.collection_prefix,
        "index": settings.index,
        "pool_version": pool_version,
    }
