"""dbt is run quietly, again and again, and says what failed in the terms of the source tables."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from reland_features.config import parse
from reland_features.errors import TableError
from reland_features.prepare import dbt_vars, run_dbt

PACKAGE = Path(__file__).parents[2] / "dbt"
DATA = Path(__file__).parents[3] / "shared" / "data"


def test_vars_say_all_that_the_configuration_says(tmp_path):
    config = parse(
        {
            "data": {
                "interactions": "in/events.csv",
                "items": "/elsewhere/items-*.parquet",
                "as_of": "2024-01-31T12:00:00+02:00",
                "columns": {"interactions": {"order": "pos"}},
                "memory_limit": "2GB",
            },
            "evaluation": {"holdout": 0, "min_history": 5},
        }
    )
    assert dbt_vars(config, tmp_path) == {
        "interactions": str(tmp_path / "in" / "events.csv"),
        "items": "/elsewhere/items-*.parquet",
        "users": None,
        "impressions": None,
        "columns": {
            "interactions": {
                "user_id": "user_id",
                "item_id": "item_id",
                "interacted_at": None,
                "order": "pos",
                "event_type": None,
                "weight": None,
            },
            "items": {"item_id": "item_id", "title": "title", "brand": None, "categories": None, "description": None},
            "users": {"user_id": "user_id", "profile": []},
            "impressions": {
                "user_id": "user_id",
                "item_id": "item_id",
                "shown_at": "shown_at",
                "is_clicked": "is_clicked",
            },
        },
        "categories_separator": "|",
        "as_of": "2024-01-31 10:00:00",
        "window_days": None,
        "user_k_core": 1,
        "item_k_core": 1,
        "max_history": 50,
        "holdout": 0,
        "test_fraction": 0.0,
        "min_history": 5,
        "memory_limit": "2GB",
    }
    database = parse({"data": {"target": "postgres", "interactions": "raw.events", "items": "raw.items"}})
    assert dbt_vars(database, tmp_path)["interactions"] == "raw.events"


def write_chain(folder, length=12):
    """Write a path graph u0 - i0 - u1 - i1 - ...: its 2-core is empty, but only its two ends fall per round."""
    pairs = [(f"u{n}", f"i{n}") for n in range(length)] + [(f"u{n + 1}", f"i{n}") for n in range(length)]
    frame = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    # A cycle beside it keeps something alive.
    cycle = pl.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": ["c0", "c1", "c0", "c1"]})
    frame = pl.concat([frame, cycle]).with_columns(interacted_at=pl.lit(datetime(2024, 1, 1)))
    frame.write_parquet(folder / "events.parquet")
    items = frame.select("item_id").unique(maintain_order=True).with_columns(title=pl.col("item_id"))
    items.write_parquet(folder / "items.parquet")
    return {"interactions": str(folder / "events.parquet"), "items": str(folder / "items.parquet")}


def test_failures_name_test_rows_and_remedy_and_the_next_run_is_clean(tmp_path, capfd):
    sources = write_chain(tmp_path)
    places = {"marts_path": tmp_path / "marts", "state_path": tmp_path / "state"}
    environment = dict(os.environ)

    # Too few rounds for the k-core.
    cores = {"user_k_core": 2, "item_k_core": 2}
    with pytest.raises(TableError, match="assert_interactions_are_k_core failed on 2 rows") as failure:
        run_dbt(PACKAGE, target="duckdb", vars={**sources, **cores, "k_core_rounds": 2}, **places)
    assert "raise the var k_core_rounds" in failure.value.hint
    assert "('user', 'u2', '1')" in failure.value.got
    assert "('user', 'u10', '1')" in failure.value.got

    # A repeated key.
    items = pl.read_parquet(sources["items"])
    pl.concat([items, items[:1]]).write_parquet(tmp_path / "twice.parquet")
    with pytest.raises(TableError, match="unique_stg_source__items_item_id failed on 1 row") as failure:
        run_dbt(PACKAGE, target="duckdb", vars={**sources, "items": str(tmp_path / "twice.parquet")}, **places)
    assert "'i0', '2'" in failure.value.got
    assert failure.value.hint == "keep one row per item in the source table"

    # A column that is not there.
    mapping = {"interactions": {"user_id": "who"}}
    with pytest.raises(TableError, match="could not build model stg_source__interactions") as failure:
        run_dbt(PACKAGE, target="duckdb", vars={**sources, "columns": mapping}, **places)
    assert '"who"' in failure.value.got

    # In the same process, after three failures: all is well, quiet, and put back as it was.
    result = run_dbt(PACKAGE, target="duckdb", vars={**sources, **cores}, **places)
    marts = {name: pl.read_parquet(tmp_path / "marts" / f"{name}.parquet") for name in result.rows}
    pairs = marts["interactions"].select("user_id", "item_id").rows()
    assert pairs == [("a", "c0"), ("a", "c1"), ("b", "c0"), ("b", "c1")]
    assert result.rows == {"interactions": 4, "items": 14, "users": 2, "user_histories": 2, "holdout": 0}
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")

    # Another process may open the database: nothing of this one holds it.
    code = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('create table t (a int)')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state" / "reland.duckdb")], check=True)


@pytest.mark.slow
def test_a_table_larger_than_memory_spills(tmp_path):
    """20 million interactions, about 1.5 GB as DuckDB holds them, under a limit of 400 MB."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            "copy (select 'user-' || (n * 7919 % 200000) as user_id, 'item-' || (hash(n) % 5000) as item_id, "
            "1600000000 + n as interacted_at from range(20000000) as r (n)) "
            f"to '{tmp_path / 'events.parquet'}' (format parquet)"
        )
    items = pl.DataFrame({"item_id": [f"item-{n}" for n in range(5000)]}).with_columns(title=pl.col("item_id"))
    items.write_parquet(tmp_path / "items.parquet")
    result = run_dbt(
        PACKAGE,
        target="duckdb",
        vars={
            "interactions": str(tmp_path / "events.parquet"),
            "items": str(tmp_path / "items.parquet"),
            "memory_limit": "400MB",
            "holdout": 2,
        },
        marts_path=tmp_path / "marts",
        state_path=tmp_path / "state",
    )
    assert result.rows["interactions"] + result.rows["holdout"] == 20_000_000
    assert result.rows["user_histories"] == 200_000
    assert not any((tmp_path / "state" / "spill").glob("*"))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "beauty").is_dir(), reason="the real tables of shared/data are not here")
def test_real_events_keep_the_order_of_the_source(tmp_path):
    """Many events share a day: position, not time, says which item was last."""
    config = parse(
        {
            "data": {
                "interactions": str(DATA / "beauty" / "interactions.parquet"),
                "items": str(DATA / "beauty" / "items.parquet"),
                "user_k_core": 5,
                "item_k_core": 5,
                "columns": {
                    "interactions": {"interacted_at": "timestamp", "order": "pos"},
                    "items": {"categories": "categories", "brand": "brand"},
                },
            }
        }
    )
    variables = dbt_vars(config, tmp_path)
    result = run_dbt(PACKAGE, target="duckdb", vars=variables, marts_path=tmp_path / "marts", state_path=tmp_path / "s")
    assert result.rows["interactions"] + result.rows["holdout"] == 198_502
    assert result.rows["users"] == 22_363
    source = pl.read_parquet(DATA / "beauty" / "interactions.parquet")
    last = source.sort("user_id", "pos").group_by("user_id", maintain_order=True).last()
    held_out = pl.read_parquet(tmp_path / "marts" / "holdout.parquet").filter(pl.col("holdout_rank") == 1)
    assert held_out.select("user_id", "item_id").equals(last.sort("user_id").select("user_id", "item_id"))
