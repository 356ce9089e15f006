"""Run the dbt package and hand its marts to Python as parquet."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from reland_features.columns import IMPRESSIONS, INTERACTIONS, MARTS, Table
from reland_features.config import Config
from reland_features.databases import connect_postgres
from reland_features.errors import TableError
from reland_features.mart_files import empty_if_null_row, export_marts
from reland_features.source_tables import locations

EXCLUDED_TEST = "warn_interactions_without_item"
_EXAMPLES = 3
_LOCK = threading.Lock()  # dbt keeps flags, adapters and the environment per process


@dataclass(frozen=True)
class PrepareResult:
    """What dbt built.

    Parameters
    ----------
    rows : mapping of str to int
        Rows of each mart that was built.
    excluded_interactions : int
        Source interactions whose item is not in the items table; they are in no mart.
    last_interacted_at : datetime or None
        Last interaction of the `interactions` mart (UTC, without zone).
    warnings : tuple of str
        One sentence per test that warned.
    """

    rows: Mapping[str, int]
    excluded_interactions: int = 0
    last_interacted_at: datetime | None = None
    warnings: tuple[str, ...] = field(default=())


def dbt_vars(config: Config, source_root: Path) -> dict[str, Any]:
    """Return the vars of the dbt package for a configuration.

    Parameters
    ----------
    config : Config
        The sections `data` and `evaluation` are read.
    source_root : Path
        Folder that relative source files are taken from: the project.
    """
    data, evaluation = config.data, config.evaluation
    given = locations(config, source_root)
    variables: dict[str, Any] = {
        "interactions": given["interactions"],
        "items": given["items"],
        "users": given.get("users"),
        "impressions": given.get("impressions"),
        "columns": data.columns.model_dump(mode="json"),
        "categories_separator": data.categories_separator,
        "as_of": data.as_of.isoformat(sep=" ") if data.as_of else None,
        "window_days": data.window_days,
        "user_k_core": data.user_k_core,
        "item_k_core": data.item_k_core,
        "max_history": data.max_history,
        "holdout": evaluation.holdout,
        "test_fraction": evaluation.test_fraction,
        "min_history": evaluation.min_history,
    }
    if data.memory_limit:
        variables["memory_limit"] = data.memory_limit
    return variables


def run_dbt(
    package: Path,
    *,
    target: str,
    vars: Mapping[str, Any],
    marts_path: Path,
    state_path: Path,
    select: Sequence[str] | None = None,
    profiles_env: Mapping[str, str] | None = None,
) -> PrepareResult:
    """Build and test the marts with `dbt build`.

    Nothing is written into the package: logs, compiled SQL, the DuckDB database and what it spills go to
    `state_path`. One call at a time runs in a process; others wait.

    Parameters
    ----------
    package : Path
        The dbt package, with its `profiles.yml`.
    target : str
        ``duckdb`` or ``postgres``.
    vars : mapping
        The package's vars, for example from `dbt_vars`.
    marts_path : Path
        Where the marts' parquet files go.
    state_path : Path
        Where everything that is not a mart goes.
    select : sequence of str, optional
        dbt node selection; the state of an earlier run is then kept.
    profiles_env : mapping of str to str, optional
        Environment variables that `profiles.yml` reads, for example PGHOST.

    Raises
    ------
    TableError
        A model failed or a test found rows; what is in `marts_path` must not be used then.
    """
    marts_path, state_path = marts_path.absolute(), state_path.absolute()
    for folder in (marts_path, state_path):
        folder.mkdir(parents=True, exist_ok=True)
    database = state_path / "reland.duckdb"
    env = {
        "RELAND_DUCKDB_PATH": str(database),
        "RELAND_TEMP_DIRECTORY": str(state_path / "spill"),
        **(profiles_env or {}),
    }
    if not select:  # what a killed run left there is of no use
        for file in (database, database.with_name(database.name + ".wal")):
            file.unlink(missing_ok=True)
    arguments = [
        "build",
        "--project-dir", str(package.absolute()),
        "--profiles-dir", str(package.absolute()),
        "--target", target,
        "--target-path", str(state_path / "target"),
        "--log-path", str(state_path / "logs"),
        "--log-level", "none",
        "--log-level-file", "info",
        "--quiet",
        "--no-print",
        "--no-use-colors",
        "--no-version-check",
        "--no-send-anonymous-usage-stats",
        "--exclude-resource-type", "unit_test",
        "--vars", json.dumps({**vars, "marts_path": str(marts_path)}),
        *(["--select", *select] if select else []),
    ]  # fmt: skip
    with _LOCK, _environment(env):
        results = _invoke(arguments, state_path)
        failed = [r for r in results if r.status in ("error", "fail", "runtime error")]
        if failed:
            raise _failure(failed, target, database, state_path)
        built = {r.node.name for r in results if r.node.resource_type == "model" and r.status == "success"}
        tables = [table for table in (*MARTS, IMPRESSIONS) if table.name in built]
        if target == "postgres":
            export_marts(tables, marts_path)
        else:
            for table in tables:
                empty_if_null_row(marts_path / f"{table.name}.parquet", table)
    return _result(results, tables, marts_path)


def _invoke(arguments: Sequence[str], state_path: Path) -> list[Any]:
    """Run dbt in this process and return its node results."""
    from dbt.cli.main import dbtRunner

    try:
        outcome = dbtRunner().invoke(list(arguments))
    finally:
        _close_duckdb()
    results = getattr(outcome.result, "results", None)
    if results is None:
        raise TableError(
            "dbt could not start",
            where=str(state_path / "logs" / "dbt.log"),
            got=str(outcome.exception).strip(),
            hint="check the names of tables and columns: reland check",
        )
    return list(results)


def _close_duckdb() -> None:
    """Let go of the database file, which dbt-duckdb keeps open for the life of the process."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    environment = DuckDBConnectionManager._ENV
    DuckDBConnectionManager.close_all_connections()
    if environment is not None and hasattr(environment, "close"):
        environment.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which is how `profiles.yml` is parametrized, and put the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _failure(failed: Sequence[Any], target: str, database: Path, state_path: Path) -> TableError:
    """Describe the first failure, with a few of the rows that a test found."""
    first = failed[0]
    others = "".join(f"; also failed: {', '.join(r.node.name for r in failed[1:])}" if failed[1:] else "")
    hint = first.node.config.meta.get("hint", "")
    if first.status != "fail":
        return TableError(
            f"dbt could not build {first.node.resource_type} {first.node.name}{others}",
            where=str(state_path / "logs" / "dbt.log"),
            got=" ".join(str(first.message).split()),
            hint=hint or "reland check",
        )
    rows = f"{first.failures} row{'s' * (first.failures != 1)}"
    examples = _examples(first.node.compiled_code, target, database)
    return TableError(
        f"dbt test {first.node.name} failed on {rows}{others}",
        where=first.node.original_file_path,
        got=f"{rows}, for example {examples}" if examples else rows,
        expected=first.node.description or "none",
        hint=hint or f"look at the SQL under {state_path / 'target'}",
    )


def _examples(sql: str, target: str, database: Path) -> str:
    """Return the first rows that a failed test selects."""
    limited = f"select * from ({sql}) as failures limit {_EXAMPLES}"
    if target == "postgres":
        connection = connect_postgres()
        try:
            with connection.cursor() as cursor:
                cursor.execute(limited)
                rows = cursor.fetchall()
        finally:
            connection.close()
    else:
        import duckdb

        with duckdb.connect(str(database), read_only=True) as connection:
            rows = connection.execute(limited).fetchall()
    return ", ".join(str(tuple(str(value) for value in row)) for row in rows)


def _result(results: Sequence[Any], tables: Sequence[Table], marts_path: Path) -> PrepareResult:
    import polars as pl
    import pyarrow.parquet as pq

    rows = {table.name: pq.read_metadata(marts_path / f"{table.name}.parquet").num_rows for table in tables}
    last = None
    if INTERACTIONS.name in rows:
        scan = pl.scan_parquet(marts_path / f"{INTERACTIONS.name}.parquet")
        last = scan.select(pl.col("interacted_at").max()).collect().item()
    warned = {r.node.name: r for r in results if r.status == "warn"}
    excluded = warned[EXCLUDED_TEST].failures if EXCLUDED_TEST in warned else 0
    warnings = tuple(
        f"{name}: {r.failures} row{'s' * (r.failures != 1)}. {r.node.description}".strip() for name, r in warned.items()
    )
    return PrepareResult(rows, excluded, last, warnings)
