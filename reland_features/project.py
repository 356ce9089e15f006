"""A project on disk: where its configuration, artifacts, ledger, pool and features are.

::

    D/reland.toml          configuration
    D/dbt/                 the dbt package, yours to extend
    D/feature_repo/        the Feast repository, yours to extend
    D/features/<table>/    published feature rows, append-only parquet: what Feast reads
    D/pool/milvus.db       the reasoning pool (Milvus Lite)
    D/reports/             one HTML report per run
    D/.reland/             artifacts, ledger, dbt logs
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reland_features import config as configuration
from reland_features.artifacts import ArtifactStore, write_atomically
from reland_features.errors import ArtifactError, FeatureStoreError


@dataclass(frozen=True)
class Project:
    """One folder with a `reland.toml` and all that was made from it."""

    root: Path
    config: configuration.Config

    @classmethod
    def open(cls, root: Path, overrides: Iterable[str] = ()) -> Project:
        """Read the configuration of a project folder; raise `ConfigError` or `CheckError`.

        The folder joins the import path, so that a class named in the configuration may live in it.
        """
        if str(root.resolve()) not in sys.path:
            sys.path.insert(0, str(root.resolve()))
        return cls(root.resolve(), configuration.load(root, overrides))

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """Finished stage outputs."""
        return ArtifactStore(self.state / "artifacts")

    @property
    def state(self) -> Path:
        """What the package keeps for itself."""
        return self.root / ".reland"

    @property
    def ledger(self) -> Path:
        """SQLite file of every LLM call."""
        return self.state / "ledger.sqlite"

    @property
    def counters(self) -> Path:
        """What the LLM took, for Prometheus (node exporter's textfile collector)."""
        return self.state / "metrics.prom"

    @property
    def dry_run(self) -> Path:
        """What the last `reland generate --dry-run` said."""
        return self.state / "dry_run.json"

    @property
    def retries(self) -> Path:
        """How often failed seeds of finished rationales were tried again."""
        return self.state / "retries.json"

    @property
    def dbt(self) -> Path:
        """Project's copy of the dbt package."""
        return self.root / "dbt"

    @property
    def feature_repo(self) -> Path:
        """Feast repository that is applied and materialized."""
        return self.root / self.config.feast.repository

    @property
    def features(self) -> Path:
        """Published feature tables."""
        return self.root / "features"

    @property
    def reports(self) -> Path:
        """HTML reports."""
        return self.root / "reports"

    @property
    def pool_uri(self) -> str:
        """Milvus address: a server's as it is, a file resolved against the project folder."""
        uri = self.config.pool.uri
        if "://" in uri:
            return uri
        path = self.root / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def source(self, location: str) -> Path:
        """Resolve a source file against the project folder."""
        return self.root / location

    def set_current(self, facts: dict[str, Any]) -> None:
        """Say which marts and feature run are the published ones; readers outside find them here."""
        write_atomically(self.state / "current.json", json.dumps(facts, indent=2) + "\n")

    def current(self) -> dict[str, Any]:
        """Return what `set_current` wrote; raise `FeatureStoreError` where nothing was published."""
        path = self.state / "current.json"
        if not path.is_file():
            raise FeatureStoreError(
                "this project has published no features yet", where=str(self.root), hint="reland run"
            )
        return json.loads(path.read_text())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time work on the project; the lock ends with the process."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise ArtifactError(
                    "another reland process is working on this project",
                    where=str(self.root),
                    got=f"process {handle.read().strip() or 'unknown'}",
                    hint="wait for it, or stop it; finished stages are kept",
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield


def models_cache() -> Path:
    """Return the user's cache folder for converted model weights, shared by all projects."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "reland-features"
