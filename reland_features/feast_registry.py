"""The Feast registry of a project folder, and whether it was applied in that folder.

Feast's registry holds absolute paths, of the sources and of the tables of a SQLite online store. In a copy of the
folder `feast apply` takes these for the present state: it drops the tables of the original, and where the original
is gone it fails. A registry holds nothing that `feast apply` does not make again, so one that came along is deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reland_features.columns import FEATURE_TABLES, OPTIONAL_FEATURE_TABLES
from reland_features.errors import FeatureStoreError

STORE_FILE = "feature_store.yaml"
_TABLES = {table.name for table in (*FEATURE_TABLES, *OPTIONAL_FEATURE_TABLES)}
_PROJECT_FILE = "reland.toml"


def local_registry(repository: Path, root: Path, store_file: str = STORE_FILE) -> Path | None:
    """Return the registry's file, or None where there is none yet, or it is no file within `root`.

    What lies elsewhere, such as on a server, is shared on purpose: it does not come along with a copy.
    """
    config = _config(repository, store_file)
    if config is None or config.registry.registry_type != "file" or "://" in config.registry.path:
        return None
    path = (repository / config.registry.path).resolve()
    return path if path.is_file() and path.is_relative_to(root.resolve()) else None


def applied_elsewhere(repository: Path, root: Path, store_file: str = STORE_FILE) -> Path | None:
    """Return a path of another folder that the registry was applied in; None where it was applied in this one.

    Parameters
    ----------
    repository : Path
        The Feast repository.
    root : Path
        The project folder, with `features/`; a registry outside it is not looked at.

    Raises
    ------
    FeatureStoreError
        The configuration is wrong.

    Notes
    -----
    Two signs are looked for, as a server such as Redis has no tables in the registry: a SQLite table in another
    file than the configuration names, and one of our views whose source is the `features/` of another project or of
    none. A source that is deliberately elsewhere, as a mirror or by RELAND_FEATURES, is neither.
    """
    registry = local_registry(repository, root, store_file)
    if registry is None:
        return None
    from feast.protos.feast.core.Registry_pb2 import Registry
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    config, stored = _config(repository, store_file), Registry()
    try:
        stored.ParseFromString(registry.read_bytes())
    except DecodeError:  # `feast apply` says so
        return None
    return next(_foreign_tables(stored, config, repository), None) or next(_foreign_sources(stored, config, root), None)


def drop_if_applied_elsewhere(repository: Path, root: Path, store_file: str = STORE_FILE) -> Path | None:
    """Delete a registry that was applied in another folder; return the path that gave it away, if there was one."""
    elsewhere = applied_elsewhere(repository, root, store_file)
    registry = local_registry(repository, root, store_file)
    if elsewhere and registry:
        registry.unlink()
    return elsewhere


def _config(repository: Path, store_file: str) -> Any:
    """Read Feast's configuration; None where there is none. Raises `FeatureStoreError` where it is wrong."""
    from feast.repo_config import load_repo_config

    path = repository / store_file
    if not path.is_file():
        return None
    try:
        config = load_repo_config(repository.resolve(), path.resolve())
        # Both are made when they are first asked for, and are checked only then.
        return config if config.registry and config.online_store else None
    except Exception as error:  # of Feast, pydantic, YAML, or of the import of somebody's online store
        raise FeatureStoreError("Feast cannot read its configuration", where=str(path), got=error) from error


def _foreign_tables(stored: Any, config: Any, repository: Path) -> Iterator[Path]:
    if config.online_store.type != "sqlite":
        return
    here = (repository / config.online_store.path).resolve()
    for thing in stored.infra.infra_objects:
        table = thing.sqlite_table
        if table.path and table.name.startswith(f"{config.project}_") and Path(table.path).resolve() != here:
            yield Path(table.path)


def _foreign_sources(stored: Any, config: Any, root: Path) -> Iterator[Path]:
    given = os.environ.get("RELAND_FEATURES")
    here = {(root / "features").resolve(), *([Path(given).resolve()] if given else [])}
    for view in stored.feature_views:
        source = Path(view.spec.batch_source.file_options.uri)
        features = source.parent.parent
        # A view of ours with a prefix is another project's on purpose; a relative source comes along.
        if view.spec.project != config.project or view.spec.name not in _TABLES or not source.is_absolute():
            continue
        is_of_a_project = features.name == "features" and (features.parent / _PROJECT_FILE).is_file()
        if features.resolve() not in here and (is_of_a_project or not features.is_dir()):
            yield source
