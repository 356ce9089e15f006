"""Query source tables, files through DuckDB or PostgreSQL's, behind one small interface."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from reland_features.config import Config
from reland_features.errors import ConfigError, TableError
from reland_features.source_tables import SourceTable, files_of, is_file, missing_file, read_sql, unreadable

_OFFSET = ":[0-9.]+ *([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$"  # as in dbt's `to_utc`: other zones are not read


class Database(Protocol):
    """What runs the check's queries."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement and return all of its few rows; raise `TableError` where the data stop it."""

    def describe(self, name: str, location: str) -> SourceTable:
        """Find a source; raise `TableError` where there is none or it cannot be read."""

    def timestamp(self, microseconds: str) -> str:
        """Render SQL for a UTC timestamp out of microseconds since 1970."""

    def parse(self, text: str) -> str:
        """Render SQL for a UTC timestamp out of text, null where it is none or dbt would drop its zone."""

    def parse_number(self, text: str) -> str:
        """Render SQL for a number out of text, null where it is none."""

    def parse_flag(self, text: str) -> str:
        """Render SQL for a boolean out of text, null where it is none."""

    def decimal(self, number: str) -> str:
        """Render SQL for dbt's decimal(38, 6) out of a number, null where it holds none: NaN, infinity, too large."""


@contextmanager
def open_database(config: Config, env: Mapping[str, str] | None = None) -> Iterator[Database]:
    """Open what can query the sources: DuckDB in memory for files, or PostgreSQL."""
    if config.data.target == "postgres":
        connection = connect_postgres(env)
        try:
            yield _Postgres(connection)
        finally:
            connection.close()
        return
    import duckdb

    with TemporaryDirectory(prefix="reland-check-") as spill, duckdb.connect() as connection:
        connection.execute(f"set temp_directory = '{spill}'")
        connection.execute("set TimeZone = 'UTC'")
        if config.data.memory_limit:
            try:
                connection.execute(f"set memory_limit = '{config.data.memory_limit}'")
            except duckdb.Error as error:
                raise ConfigError(
                    "configuration key 'data.memory_limit' is wrong",
                    got=config.data.memory_limit,
                    expected="4GB or 70%",
                ) from error
        yield _DuckDB(connection)


def connect_postgres(env: Mapping[str, str] | None = None) -> Any:
    """Connect with psycopg2 to where the dbt profile `postgres` points; `env` goes before `os.environ`."""
    import psycopg2

    settings = {**os.environ, **(env or {})}
    host, port = settings.get("PGHOST", "localhost"), settings.get("PGPORT", "5432")
    database = settings.get("PGDATABASE", "postgres")
    try:
        return psycopg2.connect(
            host=host,
            port=port,
            user=settings.get("PGUSER", "postgres"),
            password=settings.get("PGPASSWORD", ""),
            dbname=database,
        )
    except psycopg2.OperationalError as error:
        raise TableError(
            "PostgreSQL does not answer",
            where=f"{host}:{port}/{database}",
            got=str(error).strip(),
            hint="set PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE",
        ) from error


@dataclass(frozen=True)
class _DuckDB:
    connection: Any

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            return list(self.connection.execute(sql).fetchall())
        except duckdb.Error as error:  # a CSV is described by its first rows; any later one may be no text, or ragged
            raise _stopped(error) from error

    def describe(self, name: str, location: str) -> SourceTable:
        if not files_of(location):
            raise missing_file(name, location)
        if not is_file(location):
            raise TableError(
                f"the {name} table is of an unknown format", where=location, expected="a .parquet or .csv file"
            )
        sql = read_sql(location)
        try:
            types = {str(row[0]): str(row[1]) for row in self.query(f"describe select * from {sql}")}
        except TableError as error:
            raise unreadable(location, error.got) from error
        return SourceTable(name, location, sql, types)

    def timestamp(self, microseconds: str) -> str:
        return f"make_timestamp({microseconds})"

    def parse(self, text: str) -> str:
        # The cast to timestamp, by which dbt reads what ends in no offset, drops the name of a zone.
        utc = f"cast(try_cast({text} as timestamptz) at time zone 'UTC' as timestamp)"
        return f"case when {text} ~ '{_OFFSET}' or {utc} = try_cast({text} as timestamp) then {utc} end"

    def parse_number(self, text: str) -> str:
        return f"try_cast({text} as decimal(38, 6))"

    def parse_flag(self, text: str) -> str:
        return f"try_cast({text} as boolean)"

    def decimal(self, number: str) -> str:
        return f"try_cast({number} as decimal(38, 6))"


@dataclass(frozen=True)
class _Postgres:
    connection: Any

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        import psycopg2

        try:
            with self.connection, self.connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        except psycopg2.Error as error:
            raise _stopped(error) from error

    def describe(self, name: str, location: str) -> SourceTable:
        if is_file(location):
            raise TableError(
                f"the {name} table is a file, but target is postgres", where=location, expected="schema.table"
            )
        schema, _, table = location.rpartition(".")
        quoted = ".".join('"' + part.replace('"', '""') + '"' for part in location.split("."))
        literal = quoted.replace("'", "''")
        rows = self.query(
            "select attname, format_type(atttypid, null) from pg_attribute "
            f"where attrelid = to_regclass('{literal}') and attnum > 0 and not attisdropped order by attnum"
        )
        if not rows:
            schema_literal = (schema or "public").replace("'", "''")
            known = self.query(f"select tablename from pg_tables where schemaname = '{schema_literal}' order by 1")
            near = difflib.get_close_matches(table, [row[0] for row in known], n=1)
            hint = f"did you mean {schema or 'public'}.{near[0]}?" if near else f"change data.{name} in reland.toml"
            raise TableError(f"the {name} table is missing", where=location, got="no such table", hint=hint)
        return SourceTable(name, location, quoted, dict(rows))

    def timestamp(self, microseconds: str) -> str:
        return f"timestamp '1970-01-01 00:00:00' + ({microseconds}) * interval '1 microsecond'"

    def parse(self, text: str) -> str:
        # PostgreSQL 15 has no cast that fails softly: what does not look like ISO 8601 is no time. Nor is what ends
        # in the name of a zone, which dbt's cast to timestamp would drop, unless it is UTC's.
        ending = "( *(UTC|GMT|AM|PM|Z|[+-][0-9]{2}(:?[0-9]{2})?))?"
        clock = f"[T ][0-2][0-9]:[0-5][0-9][0-9:.]*{ending}"
        iso = f"{text} ~* '^[0-9]{{4}}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])({clock})?$'"
        utc = f"cast(cast({text} as timestamptz) at time zone 'UTC' as timestamp)"
        return f"case when {iso} then case when {text} ~ '{_OFFSET}' then {utc} else cast({text} as timestamp) end end"

    def parse_number(self, text: str) -> str:
        return f"case when {text} ~ '^-?[0-9]{{1,32}}([.][0-9]*)?$' then cast({text} as decimal(38, 6)) end"

    def parse_flag(self, text: str) -> str:
        # PostgreSQL takes every beginning of these words that only one of them has.
        words = "t(r(ue?)?)?|f(a(l(se?)?)?)?|y(es?)?|no?|on|off?|1|0"
        return f"case when trim({text}) ~* '^({words})$' then cast({text} as boolean) end"

    def decimal(self, number: str) -> str:
        # Here NaN is above every number.
        return f"case when abs({number}) < 1e32 then cast({number} as decimal(38, 6)) end"


def _stopped(error: Exception) -> TableError:
    lines = str(error).splitlines()
    # DuckDB's first line on a CSV is where it stopped, the third one why.
    why = " ".join([lines[0], *(lines[2:3] if "CSV Error" in lines[0] else [])]) if lines else type(error).__name__
    hint = "mend the row or the value that the message names"
    if "OutOfMemory" in type(error).__name__:
        hint = "raise data.memory_limit, or leave it out"
    return TableError("the table cannot be read to its end", got=why, hint=hint)
