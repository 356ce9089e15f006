"""Check the values of a source table's columns, each check one query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from reland_features.databases import Database
from reland_features.errors import RelandError, TableError
from reland_features.source_tables import SourceTable, quoted

_CLOCK = datetime(2000, 1, 1)  # as in dbt's `order_clock`
_FILL = "drop or fill these rows"


@dataclass(frozen=True)
class ColumnValues:
    """The values of one table's columns; every method returns the problems it finds.

    Parameters
    ----------
    database : Database
        What runs the queries.
    table : SourceTable
        The table, which has the columns.
    mapping : mapping of str to str
        Columns by role (`user_id`, `order`, ...).
    """

    database: Database
    table: SourceTable
    mapping: Mapping[str, str]

    def nulls(self, *roles: str) -> list[RelandError]:
        """Find what has no value; an id of blanks is none, and would be one very active user."""
        problems: list[RelandError] = []
        for role in roles:
            if (name := self.mapping.get(role)) is None:
                continue
            text = f"cast({quoted(name)} as text)"
            is_id = role.endswith("_id") and self.table.kind(name) == "text"
            there = f"nullif(trim({text}), '')" if is_id else quoted(name)
            padded = f"sum(case when {text} <> trim({text}) and trim({text}) <> '' then 1 else 0 end)" if is_id else "0"
            sql = f"select count(*) - count({there}), {padded} from {self.table.sql}"
            ((missing, blanks),) = self.database.query(sql)
            column = f"column {name!r} of the {self.table.name} table"
            if missing:
                got = f"{missing:,} rows without a value"
                problems.append(TableError(f"{column} has nulls", where=self.table.where, got=got, hint=_FILL))
            if blanks:
                got = f"{blanks:,} rows; with and without blanks are two ids"
                what = f"{column} has ids that begin or end with a blank"
                problems.append(TableError(what, where=self.table.where, got=got, hint="trim them"))
        return problems

    def unreadable(
        self,
        column: str,
        parsed: str,
        expected: str,
        written: str = "",
        hint: str = "mend these values, or map another column",
    ) -> list[RelandError]:
        """Find values that `parsed`, SQL out of the column, makes nulls of."""
        bad = f"from {self.table.sql} where {quoted(column)} is not null and {parsed} is null"
        ((count, example),) = self.database.query(f"select count(*), min(cast({quoted(column)} as text)) {bad}")
        if not count:
            return []
        return [
            TableError(
                f"column {column!r} of the {self.table.name} table cannot be read as {expected}",
                where=self.table.where,
                got=f"{count:,} rows, for example {example!r}",
                expected=written,
                hint=hint,
            )
        ]

    def numbers(self, *roles: str) -> list[RelandError]:
        """Find texts that are no numbers."""
        problems: list[RelandError] = []
        for column in map(self.mapping.get, roles):
            if column and self.table.kind(column) == "text":
                problems += self.unreadable(column, self.decimal(column), "numbers")
        return problems

    def decimal(self, column: str) -> str:
        """Render SQL for a column as decimal, null where it is none."""
        if self.table.kind(column) == "text":
            return self.database.parse_number(f"trim(cast({quoted(column)} as text))")
        return self.database.decimal(quoted(column))

    def time_of_order(self) -> str:
        """Render SQL for the instant of the order clock that the order column gives an event."""
        seconds = int((_CLOCK - datetime(1970, 1, 1)).total_seconds())
        return self.database.timestamp(f"cast(({seconds} + {self.decimal(self.mapping['order'])}) * 1000000 as bigint)")

    def order(self, now: datetime) -> list[RelandError]:
        """Find what staging reads as no order: no decimal, and without times what the order clock does not show.

        A clock after the present would publish features that stay the newest when the mistake is mended.
        """
        if (column := self.mapping.get("order")) is None:
            return []
        number = self.decimal(column)
        if unreadable := self.unreadable(column, number, "numbers"):
            return unreadable
        if "interacted_at" in self.mapping:
            return []
        first, last = (int((time - _CLOCK).total_seconds()) for time in (datetime.min, now))
        ((count, least, most),) = self.database.query(
            f"select count(*), min(n), max(n) from (select {number} as n from {self.table.sql}) as numbers "
            f"where n < {first} or n > {last}"
        )
        if not count:
            return []
        times = f"where these are times, set data.columns.interactions.interacted_at to {column!r} and leave out order"
        return [
            TableError(
                f"column {column!r} of the {self.table.name} table leaves the order clock (seconds since 2000)",
                where=self.table.where,
                got=f"{count:,} rows, from {least.normalize():f} to {most.normalize():f}",
                expected=f"numbers from {first} to {last}, which is the present",
                hint=f"{times}; else count from 0",
            )
        ]

    def unique(self, role: str) -> list[RelandError]:
        """Find ids in more than one row."""
        column = quoted(self.mapping[role])
        repeated = f"select {column} as id, count(*) as n from {self.table.sql} where {column} is not null group by 1"
        found = self.database.query(
            f"select id, n, count(*) over () from ({repeated} having count(*) > 1) as r order by n desc, id limit 1"
        )
        return [
            TableError(
                f"the {self.table.name} table repeats {role}",
                where=self.table.where,
                got=f"{total:,} repeated, for example {identity!r} in {n:,} rows",
                expected=f"one row per {role.removesuffix('_id')}",
                hint="keep one row of each",
            )
            for identity, n, total in found
        ]
