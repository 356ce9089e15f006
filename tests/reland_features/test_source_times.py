"""Times that staging would read otherwise than they were meant are one clear error, whatever their type."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl
import pytest

from reland_features.config import parse
from reland_features.sources import check_sources

NOW = datetime(2024, 6, 30)
ITEMS = pl.DataFrame({"item_id": ["x"], "title": ["X"]})


@pytest.fixture
def check(tmp_path):
    """Check interactions, or impressions, with these times."""

    def run(times, *, suffix="parquet", impressions=None, columns=None, **data):
        def write(name, content):
            frame = content.with_columns(user_id=pl.format("u{}", pl.int_range(pl.len())), item_id=pl.lit("x"))
            path = tmp_path / f"{name}.{suffix}"
            frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path)
            return path.name

        mapping = {"interactions": {"interacted_at": "at"} | (columns or {})}
        ITEMS.write_parquet(tmp_path / "items.parquet")
        sources = {"interactions": write("events", pl.DataFrame({"at": times, "pos": range(len(times))}))}
        if impressions is not None:
            shown = pl.DataFrame({"shown_at": impressions, "is_clicked": [True] * len(impressions)})
            sources["impressions"] = write("shown", shown)
        config = parse({"data": {"items": "items.parquet", "columns": mapping, **sources, **data}})
        return check_sources(config, tmp_path, NOW)

    return run


def only(problems):
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


DAYS = [20240101, 20240628, 20231231]


@pytest.mark.parametrize(
    ("times", "suffix"),
    [
        (DAYS, "parquet"),
        (pl.Series(DAYS, dtype=pl.Int32), "parquet"),
        ([float(day) for day in DAYS], "parquet"),
        ([str(day) for day in DAYS], "parquet"),
        ([f" {day} " for day in DAYS], "parquet"),
        (DAYS, "csv"),
        (["2024-01-01", "20240628", "2024-01-01T10:00:00Z"], "parquet"),
    ],
    ids=["integers", "int32", "floats", "texts", "spaces", "csv", "among_iso"],
)
def test_dates_as_yyyymmdd_are_no_epochs(check, times, suffix):
    problem = only(check(times, suffix=suffix, as_of="2024-06-28T00:00:00", window_days=90))
    assert problem.what == "column 'at' of the interactions table holds dates as YYYYMMDD, which are read as epoch s"
    assert problem.got.endswith("for example 20240628, read as 1970-08-23 06:23:48")
    assert "2024-06-28" in problem.hint
    assert "DATE" in problem.hint


@pytest.mark.parametrize(
    "times",
    [
        [202406, 202405],  # YYYYMM
        [2024, 2023],
        [45471, 45000],  # days of Excel
        [202406282108, 202406282109],  # YYYYMMDDHHMM
        [20241301, 20240230],  # no dates
        ["45471", "45000"],
        [datetime(1970, 1, 1, 0, 0, 0, 20240)] * 2,  # what other software made of numbers
        [date(1970, 1, 2)] * 2,
    ],
    ids=["months", "years", "excel", "minutes", "no_dates", "texts", "timestamps", "days"],
)
def test_times_that_end_before_1990_are_in_another_unit(check, times):
    problem = only(check(times, as_of="2024-06-28T00:00:00", window_days=90))
    assert problem.what == "column 'at' of the interactions table ends before 1990"
    assert problem.got.startswith("the latest is 19")
    assert "data.columns.interactions.order" in problem.hint


def test_as_of_in_the_future_is_told_beside_misread_times(check):
    problems = check(DAYS, as_of="2025-01-01T00:00:00")
    assert [p.what.partition(" lies")[0] for p in problems][1:] == ["data.as_of"]


def test_impressions_are_checked_too_and_together(check):
    days, early = check(DAYS, impressions=[45471, 45000])
    assert "holds dates as YYYYMMDD" in days.what
    assert early.what == "column 'shown_at' of the impressions table ends before 1990"
    assert "order" not in early.hint


def test_a_table_without_times_takes_its_order_from_any_numbers(check):
    assert check(DAYS, columns={"interacted_at": None, "order": "at"}) == []
    assert check([3, 1, 2], columns={"interacted_at": None, "order": "at"}) == []


@pytest.mark.parametrize(
    "times",
    [
        [1_700_000_000, 20240101],  # one odd row is no reason to refuse the others
        ["1700000000", "20240101"],
        [1_700_000_000_000, 1_600_000_000_000],
        [date(2024, 1, 1), date(1985, 1, 1)],
        [datetime(1989, 12, 31), datetime(1990, 1, 1)],
        ["2024-06-28 21:08:16", "2024-06-28"],
        ["2024-06-28T21:08:16+02:00", "2024-06-28T21:08:16.123+0200"],
        ["2024-06-28T21:08:16Z", "2024-06-28 21:08-02"],
        ["2024-06-28 21:08:16 UTC", "2024-06-28T21:08"],
    ],
)
def test_times_that_are_read_as_meant(check, times):
    assert check(times) == []


@pytest.mark.parametrize("zone", ["Europe/Berlin", "EST", "America/New_York", "CEST"])
def test_a_zone_by_name_would_be_dropped(check, zone):
    problem = only(check(["2024-06-28 21:32:48", f"2024-06-28 21:32:48 {zone}"]))
    assert problem.what == "column 'at' of the interactions table cannot be read as times"
    assert problem.got == f"1 rows, for example '2024-06-28 21:32:48 {zone}'"
    assert "+02:00" in problem.hint


@pytest.mark.parametrize(
    ("times", "example"),
    [
        ([1.7e9, float("nan")], "nan"),
        ([float("inf"), 1.7e9], "inf"),
        ([1.7e9, 1e300], "1e+300"),
        ([1.7e9, 1e24], "1e+24"),  # a decimal, but no microseconds
        (["2024-01-01", "20240-01-01"], "20240-01-01"),
    ],
    ids=["nan", "infinity", "no_decimal", "no_bigint", "year_20240"],
)
def test_what_stops_a_cast_is_one_problem(check, times, example):
    problem = only(check(times))
    assert problem.what == "column 'at' of the interactions table cannot be read as times"
    assert problem.got == f"1 rows, for example {example!r}"
    shown = only(check([1.7e9, 1.7e9], impressions=times))
    assert shown.what == "column 'shown_at' of the impressions table cannot be read as times"
