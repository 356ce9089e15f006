"""Publish feature tables as append-only parquet.

A published run is one file per table, ``<root>/<table>/<run_id>.parquet``. Files are never edited:
a newer run appends files, and readers take a key's newest (event, created) timestamps.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from reland_features.artifacts import sync
from reland_features.columns import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    FEATURE_TABLES,
    ITEM_ATTRIBUTES,
    OPTIONAL_FEATURE_TABLES,
    USER_MATCH_DETAIL,
    USER_RATIONALE,
    USER_SEED_MATCH,
    Table,
)
from reland_features.errors import FeatureStoreError

_LOG = logging.getLogger(__name__)
_STAGING = ".staging"
_STAGED = "staged"
_TIMES = (EVENT_TIMESTAMP, CREATED_TIMESTAMP)


@dataclass(frozen=True)
class PublishedRun:
    """The files of one published run, complete."""

    run_id: str
    as_of: datetime
    created_at: datetime
    paths: Mapping[str, Path]

    @property
    def tables(self) -> list[Table]:
        """The tables that the run has."""
        return _tables(self.paths)


def publish(frames: Mapping[str, pl.DataFrame], root: Path, run_id: str) -> list[Path]:
    """Write one run's tables next to the earlier ones, all or, after a kill, once run again.

    Tables are first written and synced in a hidden staging folder that no reader's glob matches, then
    renamed one by one. A call that finds a complete staging folder of the same run finishes its renames
    before it looks at anything else, so that all files of a run come from one call. A file that is
    already published is left as it is. Other runs of which a file is visible are finished first (`finish_started`).

    Returns
    -------
    list of Path
        The published files, in the order of `columns.FEATURE_TABLES`, optional ones before them.

    Raises
    ------
    FeatureStoreError
        The disk is full or not writable, or the run is published with other rows.
    """
    started = time.perf_counter()
    finish_started(root, without=run_id)
    staging = root / f"{_STAGING}-{run_id}"
    targets = {table.name: root / table.name / f"{run_id}.parquet" for table in _tables(frames)}
    with _writing(root):
        if not (staging / _STAGED).exists() and not all(path.exists() for path in targets.values()):
            _stage(frames, staging)
        for name, path in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _check_same_rows(path, frames[name])
            else:
                (staging / f"{name}.parquet").rename(path)
                sync(path.parent)
        shutil.rmtree(staging, ignore_errors=True)
    rows = ", ".join(f"{name} {frame.height:,}" for name, frame in frames.items())
    _LOG.info("publish: %s rows -> %s (%.1f s)", rows, root, time.perf_counter() - started)
    return list(targets.values())


def finish_started(root: Path, *, without: str = "") -> None:
    """Publish the staged rest of every run that a kill stopped between its first file and its last.

    Readers see such a run's first tables for ever, published under whatever id comes next; its own may never come
    again. A staged run of which nothing is visible stays hidden: nobody has read it, and it may have been given up.

    Parameters
    ----------
    without : str
        A run to leave alone.

    Raises
    ------
    FeatureStoreError
        The disk is full or not writable.
    """
    with _writing(root):
        for staging in sorted(root.glob(f"{_STAGING}-*")):
            run_id = staging.name.removeprefix(f"{_STAGING}-")
            targets = {
                table.name: root / table.name / f"{run_id}.parquet"
                for table in (*OPTIONAL_FEATURE_TABLES, *FEATURE_TABLES)
            }
            is_started = any(path.exists() for path in targets.values())
            if run_id == without or not is_started or not (staging / _STAGED).exists():
                continue
            for name, path in targets.items():
                if (staged := staging / f"{name}.parquet").exists() and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    staged.rename(path)
                    sync(path.parent)
            shutil.rmtree(staging, ignore_errors=True)
            _LOG.info("publish: finished %s, which was stopped half-way -> %s", run_id, root)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FeatureStoreError(
            "the features could not be written",
            where=str(root),
            got=error,
            expected="nothing new is visible to readers until every table is on disk",
            hint="free some space or check the folder's permissions, then run the same command again",
        ) from error


def published_run(root: Path, run_id: str | None = None) -> PublishedRun:
    """Return a complete published run, the newest by (as of, created) unless one is named.

    Raises
    ------
    FeatureStoreError
        There is no complete run, or not the named one.
    """
    runs = []
    for path in sorted((root / ITEM_ATTRIBUTES.name).glob(f"{run_id or '*'}.parquet")):
        paths = {table.name: root / table.name / path.name for table in FEATURE_TABLES}
        more = {table.name: root / table.name / path.name for table in OPTIONAL_FEATURE_TABLES}
        if all(p.is_file() for p in paths.values()):
            paths = {name: p for name, p in more.items() if p.is_file()} | paths
            times = pl.scan_parquet(path).select("event_timestamp", "created_timestamp").head(1).collect()
            if times.height:
                as_of, created_at = times.row(0)
                runs.append(PublishedRun(path.stem, as_of, created_at, paths))
    if not runs:
        raise FeatureStoreError(
            "no complete run of features is published", where=str(root), got=run_id or "", hint="reland publish"
        )
    return max(runs, key=lambda run: (run.as_of, run.created_at, run.run_id))


def is_complete(root: Path, run_id: str, tables: Collection[str]) -> bool:
    """Say whether a run's files of these tables are all there."""
    return all((root / table / f"{run_id}.parquet").is_file() for table in tables)


def is_hidden(root: Path, run_id: str, as_of: datetime) -> bool:
    """Say whether Feast would take rows of other runs where a run with rows is to be served.

    It does where a later run has the same `as_of`, and where the run has no table of an optional kind that others have.
    """
    runs = _created(root, as_of)
    if run_id not in runs:
        return False
    optional = [root / table.name for table in OPTIONAL_FEATURE_TABLES if (root / table.name).is_dir()]
    lacks = any(not (folder / f"{run_id}.parquet").is_file() for folder in optional)
    return lacks or run_id != max(runs, key=lambda run: (runs[run], run))


def creation_time(root: Path, as_of: datetime, now: datetime) -> datetime:
    """Return the present, or just after the last run of an `as_of`, should the clock have gone back since."""
    return max([now, *(time + timedelta(microseconds=1) for time in _created(root, as_of).values())])


def users_of(root: Path, seeds: Collection[str], *, without: str) -> list[str]:
    """Return the users, ascending, whose newest or last created row in any table names one of these seeds.

    The two differ after a backfill: its rows are older, and yet what is online since.

    Parameters
    ----------
    without : str
        A run whose rows do not count, there or not: what is to be published in it must not depend on how much
        of it a kill left behind.
    """
    named, found = list(seeds), set[str]()
    best = pl.col("seed_user_id").is_in(named)
    any_rank = pl.col("seed_user_ids").list.eval(pl.element().is_in(named)).list.any()
    for table, names in ((USER_RATIONALE, best), (USER_SEED_MATCH, best), (USER_MATCH_DETAIL, any_rank)):
        files = [path for path in sorted((root / table.name).glob("*.parquet")) if path.stem != without]
        if not files:
            continue
        rows = pl.scan_parquet(files).select("user_id", *_TIMES, names=names.fill_null(False))
        # Users who never had such a seed are left out first: they are most of the rows.
        had = rows.filter("names").select("user_id").unique()
        last = [pl.col("names").sort_by(times).last() for times in (_TIMES, _TIMES[::-1])]
        either = pl.any_horizontal(last).alias("names")
        users = rows.join(had, on="user_id", how="semi").group_by("user_id").agg(either).filter("names")
        found.update(users.collect()["user_id"])
    return sorted(found)


def write_table(frame: pl.DataFrame, table: Table, path: Path) -> None:
    """Write a frame as parquet in the types of `columns`, synced to disk.

    Vectors go uncompressed and without a dictionary: floats do not compress, and it is a third faster.
    """
    leaves = {column.name: _leaf(column.name, column.type) for column in table.columns}
    vectors = {leaves[column.name] for column in table.columns if column.type == "list<float32>"}
    pq.write_table(
        frame.select(table.names).to_arrow().cast(table.arrow_schema()),
        path,
        compression={leaf: "none" if leaf in vectors else "zstd" for leaf in leaves.values()},
        use_dictionary=[leaf for leaf in leaves.values() if leaf not in vectors],
        row_group_size=50_000,
    )
    sync(path)


def _created(root: Path, as_of: datetime) -> dict[str, datetime]:
    """Return when each run of an `as_of` was created, of runs that a kill left incomplete too: Feast reads them."""
    times: dict[str, tuple[datetime, datetime]] = {}
    for table in (*OPTIONAL_FEATURE_TABLES, *FEATURE_TABLES):
        for path in (root / table.name).glob("*.parquet"):
            if path.stem not in times:
                first = pl.scan_parquet(path).select(_TIMES).head(1).collect()
                if first.height:
                    times[path.stem] = first.row(0)
    return {run: created for run, (event, created) in times.items() if event == as_of}


def _tables(names: Collection[str]) -> list[Table]:
    """Return the tables of a run. Optional ones come first: a run that lacks one is not complete without it."""
    return [*(table for table in OPTIONAL_FEATURE_TABLES if table.name in names), *FEATURE_TABLES]


def _leaf(name: str, logical: str) -> str:
    return f"{name}.list.element" if logical.startswith("list") else name


def _stage(frames: Mapping[str, pl.DataFrame], staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for table in _tables(frames):
            write_table(frames[table.name], table, staging / f"{table.name}.parquet")
        (staging / _STAGED).touch()
        sync(staging)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _check_same_rows(path: Path, frame: pl.DataFrame) -> None:
    """Compare keys and versions with what is published; created timestamps differ between calls."""
    identity = [name for name in ("user_id", "seed_user_id", "item_id", "pool_version") if name in frame.columns]
    identity.append("event_timestamp")
    if not pl.read_parquet(path, columns=identity).select(identity).equals(frame.select(identity)):
        raise FeatureStoreError(
            "this run is already published with other rows",
            where=str(path),
            expected="published rows are never edited",
            hint="publish under a new run id",
        )
