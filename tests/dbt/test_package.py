"""The dbt package keeps its promises to analysts: contracts, descriptions, unit tests, docs, stock commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from reland_features.columns import IMPRESSIONS, MARTS

PACKAGE = Path(__file__).parents[2] / "dbt"
TYPES = {
    "text": "string",
    "text[]": "list<string>",
    "timestamp": "timestamp",
    "bigint": "int64",
    "double precision": "float64",
    "boolean": "bool",
}
MODELS = sorted(PACKAGE.glob("models/*/*.sql"))


def properties(model):
    (entry,) = yaml.safe_load(model.with_suffix(".yml").read_text())["models"]
    return entry


@pytest.mark.parametrize("table", [*MARTS, IMPRESSIONS], ids=lambda table: table.name)
def test_contract_states_the_columns_that_python_states(table):
    columns = properties(PACKAGE / "models" / "marts" / f"{table.name}.sql")["columns"]
    assert [(c["name"], TYPES[c["data_type"]]) for c in columns] == [(c.name, c.type) for c in table.columns]
    not_null = {c["name"] for c in columns if any("not_null" in str(t) for t in c.get("data_tests", []))}
    assert not_null == {c.name for c in table.columns if not c.nullable}


def test_every_mart_is_one_that_python_knows():
    assert {m.stem for m in MODELS if m.parent.name == "marts"} == {t.name for t in (*MARTS, IMPRESSIONS)}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_every_model_and_column_is_described(model):
    entry = properties(model)
    assert entry["name"] == model.stem
    assert entry["description"]
    assert all(column["description"] for column in entry["columns"])
    assert entry["columns"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_sql_follows_the_house_style(model):
    lines = model.read_text().rstrip().splitlines()
    ctes = [line.split()[0] for line in lines if line.endswith(" as (") and not line.startswith(" ")]
    assert lines[-1] == f"select * from {ctes[-1]}"


@pytest.mark.parametrize("target", ["duckdb", pytest.param("postgres", marks=pytest.mark.slow)])
def test_stock_dbt_builds_tests_and_documents(target, tmp_path, request):
    """What an analyst types: dbt build with vars only, unit tests included, then dbt docs generate."""
    env = dict(os.environ)
    if target == "postgres":
        import psycopg2

        server = request.getfixturevalue("postgres")
        env |= server | {"RELAND_SCHEMA": "documented"}
        connection = psycopg2.connect(
            host=server["PGHOST"], port=server["PGPORT"], user=server["PGUSER"], dbname=server["PGDATABASE"]
        )
        with connection, connection.cursor() as cursor:
            cursor.execute("create schema shop")
            cursor.execute("create table shop.events as select 'u' || n as user_id, 'i' || n % 2 as item_id, "
                           "1700000000 + n as interacted_at from generate_series(1, 4) as s (n)")  # fmt: skip
            cursor.execute("create table shop.items as select 'i' || n as item_id, 'T' || n as title "
                           "from generate_series(0, 1) as s (n)")  # fmt: skip
        connection.close()
        sources = {"interactions": "shop.events", "items": "shop.items"}
    else:
        env |= {"RELAND_DUCKDB_PATH": str(tmp_path / "a.duckdb"), "RELAND_TEMP_DIRECTORY": str(tmp_path / "spill")}
        (tmp_path / "marts").mkdir()
        events = pl.DataFrame({"user_id": [f"u{n}" for n in range(1, 5)], "item_id": ["i1", "i0"] * 2})
        events.with_columns(interacted_at=pl.int_range(1700000001, 1700000005)).write_parquet(tmp_path / "e.parquet")
        pl.DataFrame({"item_id": ["i0", "i1"], "title": ["T0", "T1"]}).write_parquet(tmp_path / "i.parquet")
        sources = {"interactions": str(tmp_path / "e.parquet"), "items": str(tmp_path / "i.parquet")}

    def dbt(command):
        arguments = ["--project-dir", PACKAGE, "--profiles-dir", PACKAGE, "--target", target, "--no-use-colors"]
        arguments += ["--target-path", tmp_path / "target", "--log-path", tmp_path / "logs"]
        arguments += ["--vars", json.dumps({**sources, "marts_path": str(tmp_path / "marts")})]
        executable = Path(sys.executable).with_name("dbt")
        done = subprocess.run([executable, *command, *map(str, arguments)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "ERROR=0" in dbt(["build"])
    results = json.loads((tmp_path / "target" / "run_results.json").read_text())["results"]
    unit_tests = [r for r in results if r["unique_id"].startswith("unit_test.")]
    assert len(unit_tests) == 8
    assert {r["status"] for r in unit_tests} == {"pass"}

    dbt(["docs", "generate"])
    catalog = json.loads((tmp_path / "target" / "catalog.json").read_text())
    assert not catalog["errors"]
    assert [c for c in catalog["nodes"]["model.reland.interactions"]["columns"]] == MARTS[0].names
    manifest = json.loads((tmp_path / "target" / "manifest.json").read_text())
    marts = [n for n in manifest["nodes"].values() if n["resource_type"] == "model" and n["fqn"][1] == "marts"]
    assert {n["name"] for n in marts} == {table.name for table in MARTS}
    assert all("feast" in n["tags"] and n["contract"]["enforced"] for n in marts)
