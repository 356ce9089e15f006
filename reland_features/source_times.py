"""Read a source's times as dbt's `to_utc` does, and find those that are read otherwise than they were meant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from reland_features.databases import Database
from reland_features.errors import TableError
from reland_features.source_tables import SourceTable, quoted

TIMES = "ISO 8601, such as 2024-06-28 21:08:16 (UTC) or 2024-06-28T23:08:16+02:00, or epoch s, ms, µs or ns"
_NUMBER = "^-?[0-9]{5,}([.][0-9]*)?$"  # as in `to_utc`
_EARLIEST = datetime(1990, 1, 1)  # logs of behaviour are younger; what is no epoch is mostly read as the year 1970


@dataclass(frozen=True)
class SourceTimes:
    """A time column of a source.

    Parameters
    ----------
    database : Database
        Where the source is.
    table : SourceTable
        The source.
    column : str
        Its column of times, of any kind that staging casts.
    """

    database: Database
    table: SourceTable
    column: str

    @property
    def sql(self) -> str:
        """SQL of the column as UTC timestamp, null where it is none or no year that Python knows."""
        # Staging builds such a year, and infinity, which are a timestamp to the database; no reader of a mart takes it.
        return f"case when {self._utc} between timestamp '0001-01-01' and timestamp '9999-12-31' then {self._utc} end"

    @property
    def _utc(self) -> str:
        kind, name = self.table.kind(self.column), quoted(self.column)
        if kind == "zoned":
            return f"cast({name} at time zone 'UTC' as timestamp)"
        if kind in ("timestamp", "date"):
            return f"cast({name} as timestamp)"
        number = self._number
        micros = (
            f"case when abs({number}) < 1e11 then cast({number} * 1000000 as bigint)"
            f" when abs({number}) < 1e14 then cast({number} * 1000 as bigint)"
            f" when abs({number}) < 1e17 then cast({number} as bigint)"
            f" when abs({number}) < 1e21 then cast(floor({number} / 1000) as bigint) end"  # year 33658
        )
        if kind != "text":
            return self.database.timestamp(micros)
        return (
            f"case when {self._text} ~ '{_NUMBER}' then {self.database.timestamp(micros)} "
            f"else {self.database.parse(self._text)} end"
        )

    def misread(self) -> list[TableError]:
        """Find dates as YYYYMMDD, and times that all lie where numbers of another unit than an epoch's end up.

        A text column is taken to hold such dates if all of its numbers are some: they may stand among ISO 8601.
        """
        is_number = f"{self._text} ~ '{_NUMBER}'" if self.table.kind(self.column) == "text" else "true"
        has_numbers = self.table.kind(self.column) in ("text", "integer", "number")
        number = f"case when {is_number} then {self._number} end" if has_numbers else "cast(null as decimal(38, 6))"
        values = f"select {self.sql} as t, {number} as n from {self.table.sql}"
        whole = "case when n between 19900101 and 21001231 and n = floor(n) then cast(n as bigint) end"
        is_date = "day % 10000 between 101 and 1231 and day % 100 between 1 and 31"
        [(latest, numbers, largest, dates, day)] = self.database.query(
            f"select max(t), count(n), max(n), sum(case when {is_date} then 1 else 0 end), max(day) "
            f"from (select t, n, {whole} as day from ({values}) as times) as days"
        )
        if dates and dates == numbers:
            return [
                self._problem(
                    "holds dates as YYYYMMDD, which are read as epoch s",
                    f"{dates:,} rows, for example {day}, read as {datetime(1970, 1, 1) + timedelta(seconds=day)}",
                    "write them as YYYY-MM-DD, such as 2024-06-28, or make it a DATE column",
                )
            ]
        if latest is None or latest >= _EARLIEST:
            return []
        order = f"; where times are relative, set data.columns.{self.table.name}.order to {self.column!r}"
        return [
            self._problem(
                f"ends before {_EARLIEST.year}",
                f"the latest is {latest}" + (f", of numbers such as {largest.normalize():f}" if numbers else ""),
                "numbers are read as epoch s, ms, µs or ns by their size: write other units as YYYY-MM-DD"
                + (f"{order} and leave out interacted_at" if self.table.name == "interactions" else ""),
            )
        ]

    def future(self, now: datetime) -> list[TableError]:
        """Find times after the present (UTC, without zone)."""
        times = f"(select {self.sql} as t from {self.table.sql}) as times"
        [(count, latest)] = self.database.query(f"select count(*), max(t) from {times} where t > timestamp '{now}'")
        if not count:
            return []
        number = self.table.kind(self.column) in ("integer", "number", "text")
        reading = "; numbers are read as epoch s, ms, µs or ns by their size: is the unit another?" if number else ""
        return [
            self._problem(
                "lies in the future",
                f"{count:,} rows, the latest {latest}",
                f"mend these rows{reading}",
                f"nothing after {now} UTC",
            )
        ]

    @property
    def _text(self) -> str:
        return f"trim(cast({quoted(self.column)} as text))"

    @property
    def _number(self) -> str:
        if self.table.kind(self.column) == "text":
            return self.database.parse_number(self._text)
        return self.database.decimal(quoted(self.column))

    def _problem(self, what: str, got: str, hint: str, expected: str = TIMES) -> TableError:
        what = f"column {self.column!r} of the {self.table.name} table {what}"
        return TableError(what, where=self.table.where, got=got, expected=expected, hint=hint)
