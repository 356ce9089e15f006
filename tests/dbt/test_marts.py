"""The marts hold exactly what the rules say, whatever the source looks like, on both databases."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features.columns import MARTS
from reland_features.config import parse
from reland_features.prepare import run_dbt
from reland_features.sources import check_sources


def write_sources(world, folder):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("interactions", "items", "users", "impressions")
    for name in names:
        getattr(world.toy, name).write_parquet(folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in names}


def assert_marts_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, frame in expected.items():
        assert_frame_equal(found[name], frame)


@pytest.fixture(scope="session")
def golden(world, tmp_path_factory):
    """One run on the toy world with everything switched on."""
    folder = tmp_path_factory.mktemp("golden")
    sources = write_sources(world, folder / "with 'quote'")
    before = sorted(p for p in world.package.rglob("*"))
    result = run_dbt(
        world.package,
        target="duckdb",
        vars={**sources, "columns": world.columns, **world.settings},
        marts_path=folder / "it's marts",
        state_path=folder / "state",
    )
    assert sorted(p for p in world.package.rglob("*")) == before, "dbt wrote into its package"
    return result, world.read_marts(folder / "it's marts")


def test_marts_equal_those_computed_row_by_row(world, golden):
    result, marts = golden
    expected = world.expected_marts(world.toy)
    assert_marts_equal(marts, expected)
    assert result.rows == {name: frame.height for name, frame in expected.items()}
    assert result.last_interacted_at == expected["interactions"]["interacted_at"].max()
    # The toy world must exercise what it is for.
    assert expected["holdout"].height > 0
    assert expected["users"].filter(pl.col("interaction_count") == 0).height > 1
    assert expected["interactions"].height + expected["holdout"].height < world.toy.interactions.height / 2


def test_excluded_interactions_are_counted(world, golden):
    result, _ = golden
    assert result.excluded_interactions == world.toy.interactions.filter(pl.col("iid") == "unknown").height
    assert any("warn_interactions_without_item" in warning for warning in result.warnings)


def test_csv_with_epochs_and_separated_categories_gives_the_same_marts(world, golden, tmp_path):
    """Milliseconds in a glob of two gzip-less CSV files; names with spaces, capitals and quotes."""
    toy = world.toy
    events = toy.interactions.with_columns(pl.col("at").dt.epoch("ms")).rename({"at": 'The "Time"'})
    events[:50].write_csv(tmp_path / "part-1.csv")
    events[50:].select(reversed(events.columns)).write_csv(tmp_path / "part-2.csv")
    toy.items.with_columns(pl.col("genres").list.eval(pl.lit("  ") + pl.element()).list.join(";;")).write_csv(
        tmp_path / "items.csv"
    )
    toy.users.write_csv(tmp_path / "users.csv")
    toy.impressions.with_columns(pl.col("clicked").cast(pl.Int8), pl.col("at").dt.to_string("iso") + "Z").write_csv(
        tmp_path / "impressions.tsv", separator="\t"
    )
    columns = {**world.columns, "interactions": world.columns["interactions"] | {"interacted_at": 'The "Time"'}}
    run_dbt(
        world.package,
        target="duckdb",
        vars={
            "interactions": str(tmp_path / "part-*.csv"),
            "items": str(tmp_path / "items.csv"),
            "users": str(tmp_path / "users.csv"),
            "impressions": str(tmp_path / "impressions.tsv"),
            "columns": columns,
            "categories_separator": ";;",
            **world.settings,
        },
        marts_path=tmp_path / "marts",
        state_path=tmp_path / "state",
    )
    assert_marts_equal(world.read_marts(tmp_path / "marts"), golden[1])


def test_order_alone_runs_the_order_clock_and_no_users_table_is_needed(world, tmp_path):
    pl.DataFrame({"user_id": [7, 7, 7, 8], "item_id": [1, 2, 1, 2], "pos": [5, 0, 1, 0]}).write_parquet(
        tmp_path / "events.parquet"
    )
    pl.DataFrame({"item_id": [1, 2], "title": ["One", "Two"]}).write_parquet(tmp_path / "items.parquet")
    result = run_dbt(
        world.package,
        target="duckdb",
        vars={
            "interactions": str(tmp_path / "events.parquet"),
            "items": str(tmp_path / "items.parquet"),
            "columns": {"interactions": {"user_id": "user_id", "item_id": "item_id", "order": "pos"}},
        },
        marts_path=tmp_path / "marts",
        state_path=tmp_path / "state",
    )
    marts = world.read_marts(tmp_path / "marts")
    seconds = [datetime(2000, 1, 1, 0, 0, second) for second in (0, 1, 5, 0)]
    assert marts["interactions"].rows() == [
        ("7", "2", seconds[0], "interaction", 1.0, 1),
        ("7", "1", seconds[1], "interaction", 1.0, 2),
        ("7", "1", seconds[2], "interaction", 1.0, 3),
        ("8", "2", seconds[3], "interaction", 1.0, 1),
    ]
    assert marts["users"].rows() == [
        ("7", None, 3, "L4", seconds[0], seconds[2]),
        ("8", None, 1, "L1", seconds[3], seconds[3]),
    ]
    assert marts["items"]["categories"].to_list() == [[], []]
    # dbt-duckdb writes a row of nulls for a mart without rows; nobody must see it.
    assert marts["holdout"].rows() == []
    assert marts["holdout"].schema == MARTS[-1].polars_schema()
    assert result.rows["holdout"] == 0
    assert result.excluded_interactions == 0
    assert result.warnings == ()


@pytest.fixture(scope="session")
def toy_tables(world, postgres):
    """The toy world as PostgreSQL tables, its times with a zone and its categories as an array."""
    import psycopg2
    from psycopg2.extras import execute_values

    toy = world.toy
    connection = psycopg2.connect(
        host=postgres["PGHOST"], port=postgres["PGPORT"], user=postgres["PGUSER"], dbname=postgres["PGDATABASE"]
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("create schema raw; create schema other")
        cursor.execute("create table raw.events (uid text, iid text, at timestamptz, kind text, stars real, pos int)")
        rows = [(*r[:2], f"{r[2]}+00", *r[3:]) for r in toy.interactions.rows()]
        execute_values(cursor, "insert into raw.events values %s", rows)
        cursor.execute('create table other."Items" (iid text, name text, maker text, genres text[])')
        execute_values(
            cursor, 'insert into other."Items" values %s', toy.items.rows(), template="(%s,%s,%s,%s::text[])"
        )
        cursor.execute("create table raw.users (uid text, age int, town text)")
        execute_values(cursor, "insert into raw.users values %s", toy.users.rows())
        cursor.execute("create table raw.impressions (uid text, iid text, at timestamp, clicked boolean)")
        execute_values(cursor, "insert into raw.impressions values %s", toy.impressions.rows())
        cursor.execute(
            "create table raw.texts as select uid, iid, kind, stars, pos, "
            "to_char(at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') as at from raw.events"
        )
        cursor.execute("create table raw.joined as select iid, name, maker, array_to_string(genres, '| ') as genres "
                       'from other."Items"')  # fmt: skip
    connection.close()
    return postgres


@pytest.mark.parametrize(
    ("interactions", "items"),
    [("raw.events", "other.Items"), ("raw.texts", "raw.joined")],
    ids=["typed", "texts"],
)
def test_postgres_gives_the_same_marts(world, golden, toy_tables, tmp_path, interactions, items):
    result = run_dbt(
        world.package,
        target="postgres",
        vars={
            "interactions": interactions,
            "items": items,
            "users": "raw.users",
            "impressions": "raw.impressions",
            "columns": world.columns,
            **world.settings,
        },
        marts_path=tmp_path / "marts",
        state_path=tmp_path / "state",
        profiles_env=toy_tables,
    )
    assert_marts_equal(world.read_marts(tmp_path / "marts"), golden[1])
    assert result == golden[0]


def test_source_checks_read_postgres(toy_tables, tmp_path):
    import psycopg2

    connection = psycopg2.connect(
        host=toy_tables["PGHOST"], port=toy_tables["PGPORT"], user=toy_tables["PGUSER"], dbname=toy_tables["PGDATABASE"]
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "create table raw.bad as select case when n > 1 then 'u' || n end as uid, 'x-1' as iid, "
            "array['2024-01-01', '2999-01-01 10:00+02', 'soon'] as all_times, "
            "(array['2024-01-01', '2999-01-01 10:00+02', 'soon'])[n] as at from generate_series(1, 3) as s (n)"
        )
    connection.close()

    def check(interactions, **columns):
        mapping = {"user_id": "uid", "item_id": "iid", "interacted_at": "at"} | columns
        items = {"item_id": "iid", "title": "name", "categories": "genres"}
        data = {"target": "postgres", "interactions": interactions, "items": "other.Items"}
        config = parse({"data": data | {"columns": {"interactions": mapping, "items": items}}})
        return check_sources(config, tmp_path, datetime(2024, 6, 1), toy_tables)

    assert check("raw.events", order="pos", weight="stars") == []
    assert check("raw.texts") == []
    assert [(p.what, p.got) for p in check("raw.bad")] == [
        ("column 'uid' of the interactions table has nulls", "1 rows without a value"),
        ("column 'at' of the interactions table cannot be read as times", "1 rows, for example 'soon'"),
    ]
    (wrong,) = check("raw.bad", interacted_at="all_times")
    assert wrong.got == "text[]"
    (missing,) = check("raw.event")
    assert missing.hint == "did you mean raw.events?"
    (column,) = check("raw.events", user_id="UID")
    assert column.hint == "did you mean 'uid'? Set data.columns.interactions.user_id"
    unreachable = parse({"data": {"target": "postgres", "interactions": "a.b", "items": "a.c"}})
    (silent,) = check_sources(unreachable, tmp_path, datetime(2024, 6, 1), {**toy_tables, "PGPORT": "1"})
    assert silent.what == "PostgreSQL does not answer"
