"""The same project on PostgreSQL and on DuckDB: the pipeline's `prepare` gives the same marts under stable ids."""

from __future__ import annotations

import io

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features.columns import MARTS
from reland_features.demo.simulator import simulate, write_world
from reland_features.init import make_project
from reland_features.pipeline import run
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
        cursor.execute("create schema shop")
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
