"""Name a project's source tables: where they are, what they hold, and a hash of their content."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reland_features.artifacts import content_id, file_id
from reland_features.config import Config
from reland_features.errors import TableError

SOURCES = ("interactions", "items", "users", "impressions")
Kind = Literal["text", "integer", "number", "flag", "timestamp", "zoned", "date", "list", "nested"]

_FILE = re.compile(r"[.](parquet|pq|csv|tsv|txt)([.](gz|zst))?$", re.IGNORECASE)
_PARQUET = re.compile(r"[.](parquet|pq)$", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceTable:
    """A source that was found.

    Parameters
    ----------
    name : str
        One of `SOURCES`.
    where : str
        What error messages call it.
    sql : str
        What to write after ``from``.
    types : mapping of str to str
        Database type by column name, in the source's order.
    """

    name: str
    where: str
    sql: str
    types: Mapping[str, str]

    def kind(self, column: str) -> Kind:
        """Return the kind of a column's type, the same one as the dbt macro `kind_of`."""
        return kind_of(self.types[column])


def kind_of(database_type: str) -> Kind:
    """Sort a DuckDB or PostgreSQL type name into the kinds that staging tells apart."""
    name = database_type.lower()
    if name.endswith("]"):
        return "nested" if name.startswith(("struct", "map", "json")) or name.endswith("][]") else "list"
    if name.startswith(("struct", "map", "union", "json", "blob", "bytea", "row(")):
        return "nested"
    if name.endswith("with time zone") or name == "timestamptz":
        return "zoned"
    if name.startswith("timestamp"):
        return "timestamp"
    if name == "date":
        return "date"
    if name.startswith("bool"):
        return "flag"
    if name.startswith(("decimal", "numeric", "float", "double", "real")):
        return "number"
    return "integer" if "int" in name and not name.startswith("interval") else "text"


def is_file(location: str) -> bool:
    """Say whether a location names a parquet or CSV file or glob rather than ``schema.table``."""
    return _FILE.search(location) is not None


def locations(config: Config, project: Path) -> dict[str, str]:
    """Return where each given source is; relative files are taken from the project folder."""
    given = {name: getattr(config.data, name) for name in SOURCES}
    here = {name: location for name, location in given.items() if location}
    if config.data.target == "postgres":
        return here
    return {name: os.path.normpath(project.absolute() / Path(text).expanduser()) for name, text in here.items()}


def files_of(location: str) -> list[Path]:
    """Return the files of a path or glob, sorted by name."""
    if _GLOB.search(location) and not Path(location).exists():
        return sorted(Path(found) for found in glob.glob(location, recursive=True))  # noqa: PTH207  absolute, with **
    return [Path(location)] if Path(location).is_file() else []


def source_ids(config: Config, project: Path) -> dict[str, str | None]:
    """Return a content hash per given source.

    None stands for a database table, which must always be read again, and ``missing`` for a file that is
    not there: `check_sources` reports it together with every other problem.
    """
    if config.data.target == "postgres":
        return dict.fromkeys(locations(config, project))
    ids: dict[str, str | None] = {}
    for name, location in locations(config, project).items():
        files = files_of(location)
        hashes = [file_id(file) for file in files]
        ids[name] = "missing" if not hashes else hashes[0] if len(hashes) == 1 else content_id(hashes, 16)
    return ids


def discover_columns(path: Path) -> list[tuple[str, str]]:
    """Return (name, DuckDB type) of a parquet or CSV file's columns; CSV types are sniffed."""
    import duckdb

    if not files_of(str(path)):
        raise missing_file("table", str(path))
    with duckdb.connect() as connection:
        try:
            rows = connection.execute(f"describe select * from {read_sql(str(path), sniff=True)}").fetchall()
        except duckdb.Error as error:
            raise unreadable(str(path), error) from error
    return [(str(row[0]), str(row[1])) for row in rows]


_SEPARATORS = ("|", ">", ";", ",")


def common_separator(path: Path, column: str) -> str | None:
    """Return what separates the parts of a file's text column: of | > ; and , the one in most of the values.

    None where the column holds lists, or none of them is in a quarter of the values.
    """
    import duckdb

    if dict(discover_columns(path)).get(column) != "VARCHAR":
        return None
    value, source = quoted(column), read_sql(str(path), sniff=True)
    counts = ", ".join(f"count(*) filter (where contains({value}, '{each}'))" for each in _SEPARATORS)
    with duckdb.connect() as connection:
        try:
            found = connection.execute(f"select count({value}), {counts} from {source}").fetchone() or (0,)
        except duckdb.Error as error:
            raise unreadable(str(path), error) from error
    most = max(range(len(_SEPARATORS)), key=lambda place: found[1 + place])
    return _SEPARATORS[most] if found[1 + most] * 4 > found[0] else None


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def missing_file(name: str, location: str) -> TableError:
    """Describe a missing source, with the nearest file name of its folder."""
    path = Path(location)
    hint = f"put the file there or change data.{name} in reland.toml"
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_file()], n=1)
        hint = f"did you mean {near[0]!r}?" if near else hint
        got = "no such file" if not _GLOB.search(location) else "no file matches"
    else:
        got = f"no folder {path.parent}"
    return TableError(f"the {name} table is missing", where=location, got=got, hint=hint)


def read_sql(location: str, *, sniff: bool = False) -> str:
    """Render what DuckDB selects from for a file or glob, as the dbt macro `source_table` does."""
    path = location.replace("'", "''")
    if _PARQUET.search(location):
        return f"read_parquet('{path}', union_by_name = true)"
    # As in the dbt macro: a sniffed type would turn the id 007 into 7.
    return f"read_csv('{path}', header = true, all_varchar = {str(not sniff).lower()}, union_by_name = true)"


def unreadable(location: str, error: Exception | str) -> TableError:
    """Describe a file that is there but is no table."""
    return TableError(
        "the file cannot be read",
        where=location,
        got=str(error).splitlines()[0],
        expected="parquet, or CSV with a header",
    )
