"""What a demo, a test or a benchmark relies on in a simulated world."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features.demo.catalogue import films
from reland_features.demo.simulator import (
    START,
    generate_items,
    simulate,
    simulate_to_parquet,
    toy_world,
    write_world,
)
from reland_features.demo.tastes import ARCHETYPES
from reland_features.errors import RelandError


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, again, other = simulate(200, 7), simulate(200, 7), simulate(200, 8)
    for name in ("interactions", "items", "users", "tastes"):
        assert_frame_equal(getattr(first, name), getattr(again, name))
    assert not first.interactions.equals(other.interactions)


def test_no_user_meets_an_item_twice_and_time_increases():
    interactions = simulate(500, 1, start=datetime(2023, 5, 1)).interactions
    assert interactions.select("user_id", "item_id").is_unique().all()
    steps = interactions.select(pl.col("timestamp").diff().over("user_id").drop_nulls())["timestamp"]
    assert steps.min() > timedelta(0)
    assert interactions["timestamp"].min() >= datetime(2023, 5, 1)
    assert interactions["timestamp"].max() <= datetime(2023, 5, 1) + timedelta(days=181)
    assert interactions["rating"].is_between(1, 5).all()


def test_events_per_user_have_a_heavy_tail_within_the_limits():
    counts = simulate(5000, 2, events_per_user=(8, 60)).interactions.group_by("user_id").len()["len"]
    assert (counts.min(), counts.max(), counts.len()) == (8, 60, 5000)
    assert counts.median() < counts.mean() < 30


def test_users_see_mostly_films_of_their_tastes():
    world = simulate(400, 3)
    seen = world.interactions.join(world.items, on="item_id")
    leading = {archetype.name: next(iter(archetype.genres)) for archetype in ARCHETYPES}
    own = world.tastes.with_columns(leading=pl.col("tastes").list.eval(pl.element().replace_strict(leading)))

    def share(tastes: pl.DataFrame) -> float:
        suits = pl.col("genres").list.set_intersection(pl.col("leading")).list.len() > 0
        return seen.join(tastes.select("user_id", "leading"), on="user_id").select(suits.mean()).item()

    strangers = own.with_columns(pl.col("leading").shuffle(seed=0))
    assert share(own) > 0.6
    assert share(own) > 2 * share(strangers)


def test_ratings_follow_the_tastes():
    world = simulate(400, 3)
    seen = world.interactions.join(world.items, on="item_id").join(world.tastes, on="user_id", suffix="_taste")
    leading = pl.col("genres").list.contains(pl.col("genres_taste").list.first())
    liked, other = (seen.filter(f)["rating"].mean() for f in (leading, ~leading))
    assert liked > other + 0.5


def test_tastes_are_one_to_three_weighted_and_ordered():
    tastes = simulate(300, 4).tastes
    assert set(tastes["tastes"].list.len()) == {1, 2, 3}
    assert tastes.filter(pl.col("tastes").list.n_unique() != pl.col("tastes").list.len()).is_empty()
    assert np.allclose(tastes["weights"].list.sum().to_numpy(), 1.0, atol=1e-5)
    assert (tastes["weights"].list.max() == tastes["weights"].list.first()).all()


def test_the_toy_world_is_small_and_covers_every_genre():
    world = toy_world()
    assert (world.users.height, world.items.height) == (30, 40)
    assert world.items["genres"].explode().n_unique() == 18
    assert set(world.interactions["user_id"]) == set(world.users["user_id"])
    assert set(world.interactions["item_id"]) <= set(world.items["item_id"])


def test_nobody_gets_more_than_half_of_a_tiny_catalogue():
    counts = simulate(50, 0, items=films().head(6), events_per_user=(5, 60)).interactions["user_id"].value_counts()
    assert counts["count"].to_list() == [3] * 50


def test_a_catalogue_with_other_categories_gets_tastes_of_its_own():
    items = films().head(60).with_columns(categories=pl.Series([["Hair" if n % 2 else "Skin"] for n in range(60)]))
    world = simulate(100, 0, items=items)
    assert set(world.tastes["genres"].explode()) == {"Hair", "Skin"}
    assert simulate(10, 0, items=items.with_columns(categories=pl.lit([], dtype=pl.List(pl.String)))).users.height == 10


def test_streaming_to_parquet_equals_the_world_in_memory(tmp_path: Path):
    rows = simulate_to_parquet(tmp_path, 300, seed=5)
    world = simulate(300, 5)
    assert rows == world.interactions.height
    assert_frame_equal(pl.read_parquet(tmp_path / "interactions" / "*.parquet"), world.interactions)
    assert_frame_equal(pl.read_parquet(tmp_path / "users" / "*.parquet"), world.users)
    assert_frame_equal(pl.read_parquet(tmp_path / "items.parquet"), world.items)


def test_streaming_in_chunks_keeps_users_apart_and_replaces_an_earlier_run(tmp_path: Path):
    simulate_to_parquet(tmp_path, 500, 200, seed=5, chunk_users=50)
    rows = simulate_to_parquet(tmp_path, 250, 200, seed=5, chunk_users=100, ids="int")
    interactions = pl.read_parquet(tmp_path / "interactions" / "*.parquet")
    assert sorted(p.name for p in (tmp_path / "users").iterdir()) == [f"part-{n:05d}.parquet" for n in range(3)]
    assert interactions.height == rows
    assert interactions.schema["user_id"] == interactions.schema["item_id"] == pl.Int64
    assert interactions["user_id"].unique().sort().to_list() == list(range(1, 251))
    assert set(interactions["item_id"]) <= set(pl.read_parquet(tmp_path / "items.parquet")["item_id"])
    assert interactions.select("user_id", "item_id").is_unique().all()
    # Two chunks come from two generators: the second hundred users are no copy of the first.
    first, second = (
        interactions.filter(pl.col("user_id").is_between(low + 1, low + 100))["item_id"].to_list() for low in (0, 100)
    )
    assert first != second


def test_generated_items_are_unique_and_keep_real_genres():
    items = generate_items(2000, 1)
    assert items.schema == films().schema
    assert items["item_id"].is_unique().all()
    assert items["title"].is_unique().all()
    assert set(items["categories"].explode()) <= set(films()["categories"].explode())


def test_written_tables_have_the_columns_that_the_demo_maps(tmp_path: Path):
    world = toy_world()
    paths = write_world(tmp_path / "new", world)
    columns = {name: pl.read_parquet(path).columns for name, path in paths.items()}
    assert columns == {
        "interactions": ["user_id", "item_id", "timestamp", "rating"],
        "items": ["item_id", "title", "director", "genres", "year"],
        "users": ["user_id", "age", "gender", "occupation"],
    }
    assert pl.read_parquet_schema(paths["interactions"])["timestamp"] == pl.Datetime("us")
    assert_frame_equal(pl.read_parquet(paths["interactions"]), world.interactions)
    assert world.interactions["timestamp"].min() >= START


@pytest.mark.parametrize(
    "arguments",
    [{"users": 0}, {"items": films().head(0)}, {"events_per_user": (9, 8)}, {"events_per_user": (0, 8)}, {"days": 0}],
)
def test_impossible_worlds_are_refused(arguments: dict):
    with pytest.raises(RelandError, match="cannot be simulated"):
        simulate(**{"users": 10, "seed": 0, **arguments})
