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
from reland_features.source_times import TIMES, SourceTimes
from reland_features.source_values import ColumnValues

# Which id of another table must be met in the interactions, and how its error puts it.
_MEETING = {"items": ("item_id", "with an item"), "users": ("user_id", "by a user")}
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
        filled: dict[str, SourceTable] = {}
        for name, table in usable.items():
            try:
                found = self._table(table)
            except TableError as problem:  # a row that stops every query: what else there is cannot be told
                problems.append(TableError(problem.what, where=table.where, got=problem.got, hint=problem.hint))
                continue
            if found is None:
                problems.append(TableError(f"the {name} table is empty", where=table.where, got="0 rows"))
            else:
                filled[name] = table
                problems += found
        for other in _MEETING:
            if {"interactions", other} <= set(filled):
                problems += self._overlap(filled["interactions"], filled[other])
        return problems

    def _table(self, table: SourceTable) -> list[RelandError] | None:
        """Return the problems of one table, None where it has no rows."""
        # Every mapped column is read once, as dbt does: of a CSV only the columns asked for are decoded.
        columns = dict.fromkeys(self._mapping(table.name).values())
        counts = "".join(f", count({quoted(column)})" for column in columns)
        if self._one(f"select count(*){counts} from {table.sql}")[0] == 0:
            return None
        found: list[RelandError] = getattr(self, f"_{table.name}")(table)
        return found

    def _values(self, table: SourceTable) -> ColumnValues:
        return ColumnValues(self.database, table, self._mapping(table.name))

    def _mapping(self, name: str) -> dict[str, str]:
        return mapped_columns(self.config, name)

    def _one(self, sql: str) -> tuple[Any, ...]:
        return self.database.query(sql)[0]

    def _interactions(self, table: SourceTable) -> list[RelandError]:
        columns, values = self.config.data.columns.interactions, self._values(table)
        problems = values.nulls("user_id", "item_id", "interacted_at", "order")
        problems += values.numbers("weight") + values.order(self.now)
        if columns.interacted_at:
            time, wrong = self._times(table, columns.interacted_at)
            problems += wrong
        elif not problems and columns.order:
            time = values.time_of_order()
        else:
            time = ""
        return problems + self._window(table, time) + self._user_count(table)

    def _times(self, table: SourceTable, column: str) -> tuple[str, list[RelandError]]:
        """Return a column's times as SQL, none where they are not the ones that were meant, and its problems."""
        times = SourceTimes(self.database, table, column)
        advice = "mend these values (a zone by its offset, such as +02:00, not its name), or map another column"
        if unreadable := self._values(table).unreadable(column, times.sql, "times", TIMES, advice):
            return times.sql, unreadable
        misread = times.misread()
        return ("", [*misread]) if misread else (times.sql, [*times.future(self.now)])

    def _window(self, table: SourceTable, time: str) -> list[RelandError]:
        data = self.config.data
        if data.as_of is None:
            return []
        problems: list[RelandError] = []
        if data.as_of > self.now:
            problems.append(
                TableError("data.as_of lies in the future", got=data.as_of, expected=f"at most {self.now} UTC")
            )
        if not time:
            return problems
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
        problems = self._values(table).nulls("item_id") + self._values(table).unique("item_id")
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
        return self._values(table).nulls("user_id") + self._values(table).unique("user_id")

    def _impressions(self, table: SourceTable) -> list[RelandError]:
        columns, values = self.config.data.columns.impressions, self._values(table)
        _, wrong = self._times(table, columns.shown_at)
        clicked = self.database.parse_flag(f"cast({quoted(columns.is_clicked)} as text)")
        wrong += values.unreadable(columns.is_clicked, clicked, "flags", "true and false, or 1 and 0")
        return values.nulls("user_id", "item_id", "shown_at", "is_clicked") + wrong

    def _overlap(self, interactions: SourceTable, other: SourceTable) -> list[RelandError]:
        """Find ids that do not meet at all; where some do, the others are items to leave out, or users without events.

        Ids meet as text, as they do in dbt.
        """
        role, words = _MEETING[other.name]
        left, right = (f"cast({quoted(self._mapping(t.name)[role])} as text)" for t in (interactions, other))
        ours, theirs = f"from {interactions.sql} where {left}", f"from {other.sql} where {right}"
        (known,) = self._one(f"select count(*) {ours} in (select {right} {theirs} is not null)")
        examples = [self._one(f"select min({c}) {rows} is not null")[0] for c, rows in ((left, ours), (right, theirs))]
        if known or None in examples:  # nulls alone are a problem of their own
            return []
        return [
            TableError(
                f"no interaction is {words} of the {other.name} table",
                where=f"{interactions.where}, {other.where}",
                got=f"{role.removesuffix('_id')} ids like {examples[0]!r} and like {examples[1]!r}",
                expected="the same ids in both, as text: 007 is not 7",
                hint=f"check data.columns.interactions.{role} and data.columns.{other.name}.{role}",
            )
        ]
