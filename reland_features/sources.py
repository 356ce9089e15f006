"""Check a project's source tables before any work: every problem in one list, nothing loaded whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from reland_features.config import Config
from reland_features.databases import Database, open_database
from reland_features.errors import RelandError, TableError
from reland_features.source_columns import check_columns, mapped_columns
from reland_features.source_tables import SourceTable, common_separator, discover_columns, locations, quoted, source_ids

_TIMES = "ISO 8601, such as 2024-06-28 21:08:16, or epoch s, ms, µs or ns"
__all__ = ["check_sources", "common_separator", "discover_columns", "source_ids"]


def check_sources(
    config: Config, project: Path, now: datetime, env: Mapping[str, str] | None = None
) -> list[RelandError]:
    """Return every problem of the source tables, in the order in which to mend them.

    Parameters
    ----------
    config : Config
        Names the sources, their columns, and what is asked of them.
    project : Path
        Folder that relative files are taken from.
    now : datetime
        The present (UTC, without zone); a later event is a problem.
    env : mapping of str to str, optional
        PG* variables that go before those of the process.
    """
    try:
        with open_database(config, env) as database:
            return _Check(config, now, database).run(locations(config, project))
    except RelandError as problem:  # the database itself cannot be opened
        return [problem]


@dataclass(frozen=True)
class _Check:
    config: Config
    now: datetime
    database: Database

    def run(self, given: Mapping[str, str]) -> list[RelandError]:
        problems: list[RelandError] = []
        usable: dict[str, SourceTable] = {}
        for name, location in given.items():
            try:
                table = self.database.describe(name, location)
            except TableError as problem:
                problems.append(problem)
                continue
            wrong = check_columns(table, self._mapping(name))
            if not wrong:
                usable[name] = table
            problems += wrong
        for name, table in usable.items():
            rows = self._one(f"select count(*) from {table.sql}")[0]
            if rows == 0:
                problems.append(TableError(f"the {name} table is empty", where=table.where, got="0 rows"))
            else:
                problems += getattr(self, f"_{name}")(table)
        if {"interactions", "items"} <= set(usable) and not problems:
            problems += self._overlap(usable["interactions"], usable["items"])
        return problems

    def _mapping(self, name: str) -> dict[str, str]:
        return mapped_columns(self.config, name)

    def _one(self, sql: str) -> tuple[Any, ...]:
        return self.database.query(sql)[0]

    def _time(self, table: SourceTable, column: str) -> str:
        """SQL of a column as UTC timestamp, null where it is none."""
        kind, name = table.kind(column), quoted(column)
        if kind == "zoned":
            return f"cast({name} at time zone 'UTC' as timestamp)"
        if kind in ("timestamp", "date"):
            return f"cast({name} as timestamp)"
        text = f"trim(cast({name} as text))"
        number = f"cast({name} as decimal(38, 6))" if kind != "text" else self.database.parse_number(text)
        micros = (
            f"case when abs({number}) < 1e11 then cast({number} * 1000000 as bigint)"
            f" when abs({number}) < 1e14 then cast({number} * 1000 as bigint)"
            f" when abs({number}) < 1e17 then cast({number} as bigint)"
            f" else cast(floor({number} / 1000) as bigint) end"
        )
        if kind != "text":
            return self.database.timestamp(micros)
        return (
            f"case when {text} ~ '^-?[0-9]{{5,}}([.][0-9]*)?$' then {self.database.timestamp(micros)} "
            f"else {self.database.parse(text)} end"
        )

    def _nulls(self, table: SourceTable, *roles: str) -> list[RelandError]:
        mapping = self._mapping(table.name)
        names = [mapping[role] for role in roles if role in mapping]
        counts = self._one(f"select {', '.join(f'count(*) - count({quoted(n)})' for n in names)} from {table.sql}")
        return [
            TableError(
                f"column {name!r} of the {table.name} table has nulls",
                where=table.where,
                got=f"{count:,} rows without a value",
                hint="drop or fill these rows",
            )
            for name, count in zip(names, counts, strict=True)
            if count
        ]

    def _unreadable(
        self, table: SourceTable, column: str, parsed: str, expected: str, written: str = ""
    ) -> list[RelandError]:
        bad = f"from {table.sql} where {quoted(column)} is not null and {parsed} is null"
        count, example = self._one(f"select count(*), min(cast({quoted(column)} as text)) {bad}")
        if not count:
            return []
        return [
            TableError(
                f"column {column!r} of the {table.name} table cannot be read as {expected}",
                where=table.where,
                got=f"{count:,} rows, for example {example!r}",
                expected=written,
                hint="mend these values, or map another column",
            )
        ]

    def _numbers(self, table: SourceTable, *roles: str) -> list[RelandError]:
        columns = [self._mapping(table.name).get(role) for role in roles]
        problems: list[RelandError] = []
        for column in columns:
            if column and table.kind(column) == "text":
                parsed = self.database.parse_number(f"trim(cast({quoted(column)} as text))")
                problems += self._unreadable(table, column, parsed, "numbers")
        return problems

    def _unique(self, table: SourceTable, role: str) -> list[RelandError]:
        column = quoted(self._mapping(table.name)[role])
        repeated = f"select {column} as id, count(*) as n from {table.sql} where {column} is not null group by 1"
        found = self.database.query(
            f"select id, n, count(*) over () from ({repeated} having count(*) > 1) as r order by n desc, id limit 1"
        )
        return [
            TableError(
                f"the {table.name} table repeats {role}",
                where=table.where,
                got=f"{total:,} repeated, for example {identity!r} in {n:,} rows",
                expected=f"one row per {role.removesuffix('_id')}",
                hint="keep one row of each",
            )
            for identity, n, total in found
        ]

    def _interactions(self, table: SourceTable) -> list[RelandError]:
        columns = self.config.data.columns.interactions
        problems = self._nulls(table, "user_id", "item_id", "interacted_at", "order")
        problems += self._numbers(table, "order", "weight")
        if columns.interacted_at:
            time = self._time(table, columns.interacted_at)
            unreadable = self._unreadable(table, columns.interacted_at, time, "times", _TIMES)
            problems += unreadable or self._future(table, columns.interacted_at, time)
        elif not problems and columns.order:
            order = f"cast({quoted(columns.order)} as decimal(38, 6))"
            time = self.database.timestamp(f"cast((946684800 + {order}) * 1000000 as bigint)")
        else:
            time = ""
        if time:
            problems += self._window(table, time)
        return problems + self._user_count(table)

    def _future(self, table: SourceTable, column: str, time: str) -> list[RelandError]:
        times = f"(select {time} as t from {table.sql}) as times"
        count, latest = self._one(f"select count(*), max(t) from {times} where t > timestamp '{self.now}'")
        if not count:
            return []
        number = table.kind(column) in ("integer", "number", "text")
        reading = "; numbers are read as epoch s, ms, µs or ns by their size: is the unit another?" if number else ""
        return [
            TableError(
                f"column {column!r} of the {table.name} table lies in the future",
                where=table.where,
                got=f"{count:,} rows, the latest {latest}",
                expected=f"nothing after {self.now} UTC",
                hint=f"mend these rows{reading}",
            )
        ]

    def _window(self, table: SourceTable, time: str) -> list[RelandError]:
        data = self.config.data
        if data.as_of is None:
            return []
        problems: list[RelandError] = []
        if data.as_of > self.now:
            problems.append(
                TableError("data.as_of lies in the future", got=data.as_of, expected=f"at most {self.now} UTC")
            )
        start = f" and t > timestamp '{data.as_of - timedelta(days=data.window_days)}'" if data.window_days else ""
        inside, first, last = self._one(
            f"select sum(case when t <= timestamp '{data.as_of}'{start} then 1 else 0 end), min(t), max(t) "
            f"from (select {time} as t from {table.sql}) as times"
        )
        if not inside:
            window = (
                f"the {data.window_days} days up to {data.as_of}" if data.window_days else f"{data.as_of} or before"
            )
            problems.append(
                TableError(
                    "no interaction is left inside the window",
                    where=table.where,
                    got=f"interactions from {first} to {last}",
                    expected=f"some in {window}",
                    hint="change data.as_of or data.window_days",
                )
            )
        return problems

    def _user_count(self, table: SourceTable) -> list[RelandError]:
        column = quoted(self._mapping(table.name)["user_id"])
        users = self._one(
            f"select count(*) from (select distinct {column} as u from {table.sql}) as d where u is not null"
        )[0]
        if users == 1:
            return [TableError("there is only one user", where=table.where, got="1 user", expected="at least 2")]
        seeds = self.config.seeds
        asked = {"seeds.count": seeds.count, "seeds.clusters": seeds.clusters}
        return [
            TableError(
                f"there are fewer users than {key} asks for",
                where=table.where,
                got=f"{users:,} users",
                expected=f"at least {value:,}",
                hint=f"lower {key}",
            )
            for key, value in asked.items()
            if isinstance(value, int) and value > users
        ]

    def _items(self, table: SourceTable) -> list[RelandError]:
        problems = self._nulls(table, "item_id") + self._unique(table, "item_id")
        item, title = (quoted(self._mapping("items")[role]) for role in ("item_id", "title"))
        count, example = self._one(
            f"select count(*), min(cast({item} as text)) from {table.sql} "
            f"where {title} is null or trim(cast({title} as text)) = ''"
        )
        if count:
            problems.append(
                TableError(
                    "the items table has items without a title",
                    where=table.where,
                    got=f"{count:,} items, for example {example!r}",
                    hint="give them a title, leave them out, or set data.columns.items.title",
                )
            )
        return problems + self._printed_lists(table)

    def _printed_lists(self, table: SourceTable) -> list[RelandError]:
        """Find categories such as "['Action', 'Drama']", of which brackets and quotes would become a part."""
        column = self._mapping("items").get("categories")
        if column is None or table.kind(column) != "text":
            return []
        text = f"trim(cast({quoted(column)} as text))"
        count, example, all_texts = self._one(
            f"select sum(case when {text} like '[%]' then 1 else 0 end), "
            f"min(case when {text} like '[%]' then {text} end), count({text}) from {table.sql}"
        )
        if not count or 2 * count <= all_texts:
            return []
        return [
            TableError(
                "categories are lists that were printed as text",
                where=table.where,
                got=f"{count:,} rows, for example {example!r}",
                expected="a list column, as parquet has, or names with data.categories_separator between them",
                hint="write them as Action|Drama, or keep the lists in parquet",
            )
        ]

    def _users(self, table: SourceTable) -> list[RelandError]:
        return self._nulls(table, "user_id") + self._unique(table, "user_id")

    def _impressions(self, table: SourceTable) -> list[RelandError]:
        column = self.config.data.columns.impressions.shown_at
        time = self._time(table, column)
        problems = self._nulls(table, "user_id", "item_id", "shown_at", "is_clicked")
        return problems + (self._unreadable(table, column, time, "times", _TIMES) or self._future(table, column, time))

    def _overlap(self, interactions: SourceTable, items: SourceTable) -> list[RelandError]:
        left, right = (quoted(self._mapping(table.name)["item_id"]) for table in (interactions, items))
        known = self._one(
            f"select count(*) from {interactions.sql} where cast({left} as text) in "
            f"(select cast({right} as text) from {items.sql})"
        )[0]
        if known:
            return []
        examples = [
            self._one(f"select cast({c} as text) from {t.sql} limit 1")[0]
            for t, c in ((interactions, left), (items, right))
        ]
        return [
            TableError(
                "no interaction is with an item of the items table",
                where=f"{interactions.where}, {items.where}",
                got=f"item ids like {examples[0]!r} and like {examples[1]!r}",
                expected="the same ids in both",
                hint="check data.columns.interactions.item_id and data.columns.items.item_id",
            )
        ]
