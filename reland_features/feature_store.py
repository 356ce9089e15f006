"""Apply a Feast repository, materialize a published run into it, and prove that it is there.

Feast says nothing when a materialization writes no rows, so what is online is compared with what was
published before anyone relies on it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reland_features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, Table
from reland_features.errors import FeatureStoreError
from reland_features.feast_registry import STORE_FILE, drop_if_applied_elsewhere
from reland_features.publishing import published_run

if TYPE_CHECKING:
    from feast import FeatureStore

_LOG = logging.getLogger(__name__)
_STALE = (
    "feast materialize START END with a range that holds the run's event_timestamp, or: reland publish "
    "(reland refresh, where that published it)"
)


def open_store(repository: Path, store_file: str = STORE_FILE) -> FeatureStore:
    """Open a Feast repository.

    Parameters
    ----------
    repository : Path
        Folder with the Feast configuration and definitions.
    store_file : str
        Its configuration; ``feature_store_redis.yaml`` is the Redis profile.

    Raises
    ------
    FeatureStoreError
        There is no such repository.
    """
    from feast import FeatureStore

    path = repository / store_file
    if not path.is_file():
        raise FeatureStoreError(
            "there is no Feast repository here", where=str(path), hint="copy feature_repo/ into the project folder"
        )
    with _quiet():
        return FeatureStore(repo_path=str(repository.resolve()), fs_yaml_file=path.resolve())


def apply_repository(repository: Path, store_file: str = STORE_FILE, *, root: Path | None = None) -> None:
    """Run the stock ``feast apply``, in a process of its own because it imports the definitions.

    A registry that was applied in another folder and came along with a copy or a move is deleted first.

    Parameters
    ----------
    root : Path, optional
        The project folder, the one around the repository unless given; a registry outside it is left alone.

    Raises
    ------
    FeatureStoreError
        `feast apply` failed; what it printed last is in the message.
    """
    started = time.perf_counter()
    repository = repository.resolve()
    if elsewhere := drop_if_applied_elsewhere(repository, root or repository.parent, store_file):
        _LOG.warning("apply: the registry was applied in another folder (%s): made anew for %s", elsewhere, repository)
    # Feast looks for a file where the source is a glob, and warns; materialize is what checks the source.
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(repository), "-f", str(repository / store_file)]
    done = subprocess.run([*command, "apply", "--skip-source-validation"], capture_output=True, text=True)
    if done.returncode:
        raise FeatureStoreError(
            "feast apply failed",
            where=str(repository),
            got="\n".join((done.stdout + done.stderr).strip().splitlines()[-8:]),
            hint=f"feast -c {repository} apply",
        )
    _LOG.info("apply: %s (%.1f s)", repository, time.perf_counter() - started)


def materialize(
    repository: Path, features: Path, run_id: str | None = None, store_file: str = STORE_FILE
) -> dict[str, int]:
    """Load a published run into the online store and check that it arrived.

    The range is exactly the run's `as_of`: an incremental materialization would start at now - ttl and
    write nothing for historic data, without an error.

    Parameters
    ----------
    repository : Path
        An applied repository.
    features : Path
        Folder of the published tables.
    run_id : str, optional
        The newest run unless given. Of several runs with the same `as_of` Feast takes the last created.

    Returns
    -------
    dict of str to int
        Rows of each view that are now online.

    Raises
    ------
    FeatureStoreError
        Feast failed, a table of the run is empty, or a row read back differs from the published one.
    """
    started = time.perf_counter()
    run = published_run(features, run_id)
    counts = {name: pl.scan_parquet(path).select(pl.len()).collect().item() for name, path in run.paths.items()}
    empty = [name for name, rows in counts.items() if not rows]
    if empty:
        raise FeatureStoreError("a published table has no rows", where=run.run_id, got=empty)
    store = open_store(repository, store_file)
    _check_views(store, repository, counts)
    instant = run.as_of.replace(tzinfo=UTC)
    try:
        with _quiet():
            _make_tables(store)
            store.materialize(start_date=instant, end_date=instant, feature_views=list(counts))
    except Exception as error:
        raise FeatureStoreError(
            "materialization failed", where=str(repository), got=error, hint=f"feast -c {repository} apply"
        ) from error
    check_freshness(repository, features, run.run_id, store_file=store_file)
    rows = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    _LOG.info("materialize: %s rows -> %s (%.1f s)", rows, repository, time.perf_counter() - started)
    return counts


def _check_views(store: FeatureStore, repository: Path, tables: Collection[str]) -> None:
    missing = sorted(set(tables) - {view.name for view in store.list_feature_views()})
    if missing:
        raise FeatureStoreError(
            "the Feast repository has no view of a published table",
            where=str(repository),
            got=", ".join(missing),
            hint="define it in feature_definitions.py with reland_features.feast.rationale_view, or copy that file of "
            f"a new project (reland init), then feast -c {repository} apply",
        )


def _make_tables(store: FeatureStore) -> None:
    """Make the online store's tables where someone deleted them; `feast apply` trusts its registry and does not."""
    store._get_provider().update_infra(
        project=store.project,
        tables_to_delete=[],
        tables_to_keep=store.list_feature_views(),
        entities_to_delete=[],
        entities_to_keep=store.list_entities(),
        partial=True,
    )


def check_freshness(
    repository: Path, features: Path, run_id: str | None = None, *, sample: int = 100, store_file: str = STORE_FILE
) -> dict[str, int]:
    """Compare a sample of what is online with a published run, value by value.

    Parameters
    ----------
    repository, features, run_id
        As in `materialize`: the run that ought to be online.
    sample : int
        Rows of each table, spread evenly over it.

    Returns
    -------
    dict of str to int
        Rows compared of each table.

    Raises
    ------
    FeatureStoreError
        The online store lacks rows or holds those of another run.
    """
    store, run = open_store(repository, store_file), published_run(features, run_id)
    compared = {}
    for table in run.tables:
        expected = _sample(run.paths[table.name], sample)
        with _quiet():
            online = _read_online(store, table, expected[table.key[0]].to_list())
        for name in _features(table):
            wrong = [
                key
                for key, want, got in zip(expected[table.key[0]], expected[name], online[name], strict=True)
                if not _same(want, got)
            ]
            if wrong:
                raise FeatureStoreError(
                    "the online store does not hold the published features",
                    where=f"{table.name}.{name}",
                    got=f"{len(wrong)} of {expected.height} sampled rows are missing or differ, such as {wrong[0]!r}",
                    expected=f"run {run.run_id}, as of {run.as_of:%Y-%m-%d %H:%M:%S}",
                    hint=_STALE,
                )
        compared[table.name] = expected.height
    return compared


def _read_online(store: FeatureStore, table: Table, keys: list[str]) -> dict[str, list[object]]:
    features = [f"{table.name}:{name}" for name in _features(table)]
    try:
        return store.get_online_features(features=features, entity_rows=[{table.key[0]: key} for key in keys]).to_dict()
    except Exception as error:
        raise FeatureStoreError(
            "the online store cannot be read", where=table.name, got=f"{type(error).__name__}: {error}", hint=_STALE
        ) from error


def _features(table: Table) -> list[str]:
    return [name for name in table.names if name not in (*table.key, EVENT_TIMESTAMP, CREATED_TIMESTAMP)]


def _sample(path: Path, size: int) -> pl.DataFrame:
    rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    picked = np.unique(np.linspace(0, rows - 1, num=min(size, rows)).round().astype(np.uint32))
    index = pl.Series("row", picked)
    return pl.scan_parquet(path).with_row_index("row").filter(pl.col("row").is_in(index.implode())).collect()


def _same(want: object, got: object) -> bool:
    """Compare a published value with Feast's; floats were float32 on both sides."""
    if isinstance(want, pl.Series):
        want = want.to_list()
    if isinstance(want, datetime) and isinstance(got, datetime):
        # Feast stores whole seconds.
        return want.replace(tzinfo=UTC, microsecond=0) == got.replace(microsecond=0)
    if isinstance(want, list) and isinstance(got, list):
        return len(want) == len(got) and all(_same(a, b) for a, b in zip(want, got, strict=True))
    if isinstance(want, float) and isinstance(got, float):
        return bool(np.float32(want) == np.float32(got))
    return want == got


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's prints off stdout, which `--json` owns, and its known warnings off stderr."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
