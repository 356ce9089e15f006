"""`reland check` and dbt's `to_utc` read the same times out of the same values, on both databases."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

import jinja2
import pytest

from reland_features.config import parse
from reland_features.databases import connect_postgres, open_database
from reland_features.errors import TableError
from reland_features.source_tables import SourceTable
from reland_features.source_times import SourceTimes
from reland_features.sources import check_sources

AT = datetime(2024, 6, 28, 21, 8, 16)
EARLIER = datetime(2024, 6, 28, 19, 8, 16)  # what Berlin's clock and +02:00 mean
NOW = datetime(2024, 6, 30)
READ = {
    "2024-06-28 21:08:16": AT,
    "2024-06-28T21:08:16": AT,
    " 2024-06-28 21:08:16 ": AT,
    "2024-06-28T21:08:16Z": AT,
    "2024-06-28 21:08:16 UTC": AT,
    "2024-06-28T21:08:16+02": EARLIER,
    "2024-06-28T21:08:16+0200": EARLIER,
    "2024-06-28T21:08:16+02:00": EARLIER,
    "2024-06-28T21:08:16.5+02:00": EARLIER.replace(microsecond=500_000),
    "2024-06-28T21:08+02:00": EARLIER.replace(second=0),
    "2024-06-28 21:08": AT.replace(second=0),
    "2024-06-28": datetime(2024, 6, 28),
    "1719608896": AT,
    "1719608896.5": AT.replace(microsecond=500_000),
    "1719608896000": AT,
}
REFUSED = [
    "2024-06-28 21:08:16 Europe/Berlin",
    "2024-06-28 21:08:16 EST",
    "2024-06-28T21:08:16CEST",
    "2024-06-28 21:08:16+02:00 Europe/Berlin",
    "2024-06-28 10:00 soon",
    "2024",
    "soon",
]


def to_utc(package, column, target):
    """Render the macro as dbt would."""
    environment = jinja2.Environment()
    names = environment.globals

    class Reland:
        def __getattr__(self, name):
            return getattr(template.module, name)

    class Adapter:
        def dispatch(self, name, package):
            prefix = "duckdb" if target == "duckdb" else "default"
            return getattr(template.module, f"{prefix}__{name}")

    names |= {"reland": Reland(), "adapter": Adapter()}
    template = environment.from_string((package / "macros" / "times.sql").read_text())
    return template.module.to_utc(column, "text")


@pytest.mark.parametrize("target", ["duckdb", "postgres"])
def test_texts_are_read_as_dbt_reads_them_or_refused(world, target, request):
    data = {"interactions": "texts", "items": "texts", "columns": {"interactions": {"order": "n"}}}
    env = request.getfixturevalue("postgres") if target == "postgres" else {}
    texts = [*READ, *REFUSED]
    values = ", ".join(f"({n}, '{text}')" for n, text in enumerate(texts))
    table = SourceTable("interactions", "texts", "texts", {"n": "integer", "seen_at": "text"})
    with open_database(parse({"data": data | {"target": target}}), env) as database:
        database.query(f"create temporary table texts as select * from (values {values}) as t (n, seen_at); select 1")
        found = dict(database.query(f"select n, {SourceTimes(database, table, 'seen_at').sql} from texts"))
        macro = to_utc(world.package, "seen_at", target)
        dbt = dict(database.query(f"select n, {macro} from texts where n < {len(READ)}"))
    expected = dict(enumerate(READ.values()))
    assert dbt == expected
    assert found == expected | dict.fromkeys(range(len(READ), len(texts)))


@pytest.mark.parametrize("kind", ["int", "bigint", "numeric", "text"])
def test_postgres_numbers_that_are_misread(postgres, tmp_path, kind):
    def check(*values):
        with closing(connect_postgres(postgres)) as connection, connection, connection.cursor() as cursor:
            rows = ", ".join(f"('{n}', 'x', cast('{value}' as {kind}))" for n, value in enumerate(values))
            cursor.execute(
                "drop schema if exists misread cascade; create schema misread; "
                f"create table misread.events as select * from (values {rows}) as t (user_id, item_id, at); "
                "create table misread.items as select 'x' as item_id, 'X' as title; "
                "create table misread.users as select '00' || user_id as user_id from misread.events"
            )
        names = {name: f"misread.{name}" for name in ("items", "users")} | {"interactions": "misread.events"}
        columns = {"interactions": {"interacted_at": "at"}}
        config = parse({"data": {"target": "postgres", "columns": columns, **names}})
        return [(p.what, p.got) for p in check_sources(config, tmp_path, NOW, postgres)]

    users = ("no interaction is by a user of the users table", "user ids like '0' and like '000'")
    column = "column 'at' of the interactions table"
    assert check("20240101", "20240628") == [
        (
            f"{column} holds dates as YYYYMMDD, which are read as epoch s",
            "2 rows, for example 20240628, read as 1970-08-23 06:23:48",
        ),
        users,
    ]
    assert check("45471", "45000") == [
        (f"{column} ends before 1990", "the latest is 1970-01-01 12:37:51, of numbers such as 45471"),
        users,
    ]
    assert check("1700000000", "1719608896") == [users]


def test_postgres_zones_by_name_are_refused(postgres, tmp_path):
    with closing(connect_postgres(postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "drop schema if exists zones cascade; create schema zones; create table zones.events as "
            "select n as user_id, 'x' as item_id, (array['2024-06-28 21:32:48 Europe/Berlin', "
            "'2024-06-28 21:32:48+02:00'])[n] as at from generate_series(1, 2) as s (n); "
            "create table zones.items as select 'x' as item_id, 'X' as title"
        )
    data = {"target": "postgres", "interactions": "zones.events", "items": "zones.items"}
    config = parse({"data": data | {"columns": {"interactions": {"interacted_at": "at"}}}})
    (problem,) = check_sources(config, tmp_path, NOW, postgres)
    assert problem.what == "column 'at' of the interactions table cannot be read as times"
    assert problem.got == "1 rows, for example '2024-06-28 21:32:48 Europe/Berlin'"


def test_postgres_numbers_that_stop_a_cast_are_problems(postgres, tmp_path):
    def check(values, **columns):
        with closing(connect_postgres(postgres)) as connection, connection, connection.cursor() as cursor:
            rows = ", ".join(f"({n}, 'x', cast('{value}' as double precision))" for n, value in enumerate(values))
            cursor.execute(
                "drop schema if exists casts cascade; create schema casts; "
                f"create table casts.events as select * from (values {rows}) as t (user_id, item_id, at); "
                "create table casts.items as select 'x' as item_id, 'X' as title"
            )
        data = {"target": "postgres", "interactions": "casts.events", "items": "casts.items"}
        config = parse({"data": data | {"columns": {"interactions": columns}}})
        return [
            (p.what.removeprefix("column 'at' of the interactions table "), p.got)
            for p in check_sources(config, tmp_path, NOW, postgres)
        ]

    odd = [1719608896, "nan", "infinity", 1e300]
    assert check(odd, interacted_at="at") == [("cannot be read as times", "3 rows, for example '1e+300'")]
    assert check(odd, order="at") == [("cannot be read as numbers", "3 rows, for example '1e+300'")]
    ((what, got),) = check([1, 1719608896000], order="at")
    assert what.startswith("leaves the order clock")
    assert got == "1 rows, from 1719608896000 to 1719608896000"
    assert check([1, 2], order="at") == []


def test_postgres_a_query_that_fails_is_a_problem(postgres, tmp_path):
    with closing(connect_postgres(postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "drop schema if exists days cascade; create schema days; create table days.events as "
            "select 'u' as user_id, 'x' as item_id, '2024-02-30' as at; "
            "create table days.items as select 'x' as item_id, 'X' as title"
        )
    data = {"target": "postgres", "interactions": "days.events", "items": "days.items"}
    config = parse({"data": data | {"columns": {"interactions": {"interacted_at": "at"}}}})
    (problem,) = check_sources(config, tmp_path, NOW, postgres)
    assert (problem.what, problem.where) == ("the table cannot be read to its end", "days.events")
    assert "2024-02-30" in problem.got


def test_flags_are_those_that_each_database_casts(postgres, tmp_path):
    """What `check` takes as a flag is exactly what staging's cast takes, on both databases."""
    words = [
        "true",
        "tru",
        "t",
        "fals",
        "F",
        "yes",
        "ye",
        "n",
        "on",
        "of",
        "off",
        "o",
        "1",
        "0",
        "2",
        "0.0",
        "maybe",
        "",
    ]
    for target in ("duckdb", "postgres"):
        sources = {"target": target, "interactions": "e", "items": "i"}
        with open_database(parse({"data": sources}), postgres) as database:
            for word in words:
                text = f"cast('{word}' as text)"
                [(flag,)] = database.query(f"select {database.parse_flag(text)}")
                try:
                    [(expected,)] = database.query(f"select cast({text} as boolean)")
                except TableError:
                    expected = None
                assert (word, flag) == (word, expected), target
