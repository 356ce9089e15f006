"""The same project on PostgreSQL and on DuckDB: the pipeline's `prepare` gives the same marts under stable ids."""

from __future__ import annotations

import io
from contextlib import closing

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features.columns import IMPRESSIONS, MARTS
from reland_features.databases import connect_postgres
from reland_features.demo.simulator import simulate, write_world
from reland_features.init import make_project
from reland_features.pipeline import refresh, run
from reland_features.project import Project
from reland_features.sources import discover_columns


@pytest.fixture
def loaded(postgres, tmp_path, monkeypatch):
    """A project on files, and the same tables in PostgreSQL."""
    import psycopg2

    tables = write_world(tmp_path / "tables", simulate(users=50, seed=3))
    make_project(tmp_path / "D", tables, {}, discover=discover_columns)
    for name, value in postgres.items():
        monkeypatch.setenv(name, value)
    connection = psycopg2.connect(
        host=postgres["PGHOST"], port=postgres["PGPORT"], user=postgres["PGUSER"], dbname=postgres["PGDATABASE"]
    )
    types = {
        "interactions": "user_id text, item_id text, timestamp timestamp, rating bigint",
        "items": "item_id text, title text, director text, genres text, year bigint",
        "users": "user_id text, age text, gender text, occupation text",
    }
    with connection, connection.cursor() as cursor:
        cursor.execute("drop schema if exists shop cascade; create schema shop")
        for name, columns in types.items():
            names = [column.split()[0] for column in columns.split(", ")]
            frame = pl.read_parquet(tables[name])
            if name == "items":
                frame = frame.with_columns(pl.col("genres").list.join("|"))
            known = [n for n in names if n in frame.columns]
            cursor.execute(f"create table shop.{name} ({columns})")
            text = io.StringIO(frame.select(known).write_csv(include_header=False))
            cursor.copy_expert(f"copy shop.{name} ({', '.join(known)}) from stdin with (format csv)", text)
    connection.close()
    return tmp_path / "D"


def test_the_same_project_gives_the_same_marts(loaded):
    there = [f"data.{name}=shop.{name}" for name in ("interactions", "items", "users")]
    on_files = run(Project.open(loaded), until="prepare").outcomes["prepare"]
    on_postgres = run(Project.open(loaded, ["data.target=postgres", *there]), until="prepare").outcomes["prepare"]
    assert on_files.artifact.id != on_postgres.artifact.id
    assert on_files.as_of == on_postgres.as_of
    for table in MARTS:
        assert_frame_equal(
            pl.read_parquet(on_postgres.artifact.table(table.name)),
            pl.read_parquet(on_files.artifact.table(table.name)),
        )
    again = run(Project.open(loaded, ["data.target=postgres", *there]), until="prepare").outcomes["prepare"]
    assert again.cached  # dbt ran, the content is the same, so the stages after it are not repeated


def test_a_refresh_matches_what_the_database_has_since(loaded):
    settings = [
        "rationales.engine=dummy",
        "encoder.options={max_epochs=1}",
        "match.matcher=exact",
        "feast.apply=false",
        "feast.materialize=false",
    ]
    there = [f"data.{name}=shop.{name}" for name in ("interactions", "items", "users")]

    def matched(*target):
        pool = run(Project.open(loaded, [*settings, *target, "data.as_of=2024-05-15"]), "publish").outcomes["pool"]
        done = refresh(Project.open(loaded, [*settings, *target, "data.as_of=2024-06-15"]))
        assert done.outcomes["pool"].artifact.id == pool.artifact.id
        assert done.drift.events > 0
        assert done.drift.kept < done.drift.compared
        return pl.read_parquet(done.outcomes["match"].artifact.table("matches"))

    assert_frame_equal(matched("data.target=postgres", *there), matched("data.target=duckdb"))


def test_other_impressions_make_other_marts(loaded, postgres):
    there = [f"data.{name}=shop.{name}" for name in ("interactions", "items", "users")]

    def prepare(*more):
        project = Project.open(loaded, ["data.target=postgres", *there, *more])
        outcome = run(project, until="prepare").outcomes["prepare"]
        named = {text.partition(":")[0] for text in outcome.artifact.manifest["inputs"]}
        return outcome, named

    without, named = prepare()
    assert named == {table.name for table in MARTS}  # so ids from before there were impressions stay
    with closing(connect_postgres()) as connection:

        def execute(sql):
            with connection, connection.cursor() as cursor:
                cursor.execute(sql)

        execute(
            "create table shop.impressions as "
            "select user_id, item_id, timestamp as shown_at, true as is_clicked from shop.interactions limit 100"
        )
        shown, named = prepare("data.impressions=shop.impressions")
        assert named == {table.name for table in (*MARTS, IMPRESSIONS)}
        assert prepare("data.impressions=shop.impressions")[0].cached
        execute("update shop.impressions set is_clicked = false")
        changed, _ = prepare("data.impressions=shop.impressions")
    assert not changed.cached
    assert len({outcome.artifact.id for outcome in (without, shown, changed)}) == 3
    assert not pl.read_parquet(changed.artifact.table("impressions"))["is_clicked"].any()
