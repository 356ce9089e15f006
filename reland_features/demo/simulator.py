"""Simulate users with known tastes: the demo's tables, the tests' toy world, the benchmarks' scale generator.

A user has one to three tastes, a preferred era and a number of events with a heavy tail. Events come in
sessions; a session has one mood, drawn from the user's tastes, and its items are drawn from
``P(i | mood, era) ∝ popularity_i · exp(affinity(mood, i) + era bonus)``, some of them from popularity alone.
No user meets an item twice. Users are drawn in chunks with a generator each, so that a table of any size is
made in bounded memory and a world held in memory equals the one streamed to disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from reland_features.demo.catalogue import films
from reland_features.demo.draws import ERAS, Draws, Model, draw
from reland_features.errors import RelandError

START = datetime(2024, 1, 1)
CHUNK_USERS = 50_000
OCCUPATIONS = (
    "student", "engineer", "teacher", "artist", "nurse", "programmer", "sales", "manager", "scientist", "retired",
)  # fmt: skip
Ids = Literal["str", "int"]


@dataclass(frozen=True)
class SimulatedWorld:
    """Source tables as a team would have them, and the truth behind them.

    Parameters
    ----------
    interactions : polars.DataFrame
        `user_id`, `item_id`, `timestamp` (UTC, microseconds), `rating` (1 to 5); by user, then time.
    items : polars.DataFrame
        `item_id`, `title`, `director`, `genres` (list of strings), `year`.
    users : polars.DataFrame
        `user_id`, `age`, `gender`, `occupation`.
    tastes : polars.DataFrame
        The truth, one row per user: `user_id`, `tastes` (names, strongest first), `weights` (same order, sum 1),
        `genres` (those of the tastes, most important first), `era`. No stage may read it.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    tastes: pl.DataFrame


def simulate(
    users: int,
    seed: int,
    items: pl.DataFrame | None = None,
    start: datetime = START,
    events_per_user: tuple[int, int] = (8, 60),
    days: int = 180,
) -> SimulatedWorld:
    """Simulate a world in memory.

    Parameters
    ----------
    users : int
        How many users, at least 1.
    seed : int
        Same arguments, same world.
    items : polars.DataFrame, optional
        Catalogue with the columns of `catalogue.films`; the built-in films by default.
    start : datetime
        Beginning of the simulated time (UTC).
    events_per_user : tuple of int
        Fewest and most events; in between the tail falls like a power law. Nobody gets more than half
        of the catalogue.
    days : int
        Length of the simulated time; users join during its first two thirds.

    Raises
    ------
    RelandError
        No users, no items, or fewest above most.
    """
    catalogue = films() if items is None else items
    model = _model(users, seed, catalogue, events_per_user, days)
    parts = [
        (_interactions(d, catalogue, start, "str"), _users(d, "str"), _tastes(d, model))
        for d in _chunks(model, users, seed, CHUNK_USERS)
    ]
    interactions, people, tastes = (pl.concat(frames) for frames in zip(*parts, strict=True))
    return SimulatedWorld(interactions, _source_items(catalogue, "str"), people, tastes)


def simulate_to_parquet(
    path: Path,
    users: int,
    items: pl.DataFrame | int | None = None,
    *,
    seed: int = 0,
    start: datetime = START,
    events_per_user: tuple[int, int] = (8, 60),
    days: int = 180,
    ids: Ids = "str",
    chunk_users: int = CHUNK_USERS,
) -> int:
    """Write a world of any size in bounded memory; return the number of interactions.

    Writes ``interactions/part-*.parquet``, ``users/part-*.parquet`` and ``items.parquet`` below `path`, one
    part per `chunk_users` users. With the default chunk the tables equal `simulate`'s. `items` may be a number:
    that many made-up films. With ``ids="int"`` user and item ids are int64, counted from 1.
    """
    catalogue = generate_items(items, seed) if isinstance(items, int) else films() if items is None else items
    model = _model(users, seed, catalogue, events_per_user, days)
    for folder in (path / "interactions", path / "users"):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("part-*.parquet"):
            stale.unlink()
    _source_items(catalogue, ids).write_parquet(path / "items.parquet")
    rows = 0
    for number, draws in enumerate(_chunks(model, users, seed, chunk_users)):
        part = f"part-{number:05d}.parquet"
        frame = _interactions(draws, catalogue, start, ids)
        frame.write_parquet(path / "interactions" / part)
        _users(draws, ids).write_parquet(path / "users" / part)
        rows += frame.height
    return rows


def toy_world(seed: int = 0) -> SimulatedWorld:
    """Return the tests' world: 30 users, 40 films that cover every genre."""
    return simulate(30, seed, items=films().gather_every(15, offset=6).head(40), events_per_user=(5, 15))


def write_world(folder: Path, world: SimulatedWorld) -> dict[str, Path]:
    """Write a world's source tables; return the path of `interactions`, `items` and `users`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in ("interactions", "items", "users")}
    for name, path in paths.items():
        getattr(world, name).write_parquet(path)
    return paths


def generate_items(count: int, seed: int) -> pl.DataFrame:
    """Make up a catalogue of any size: numbered titles; year, director and genres of a random real film."""
    source = films()
    model = source[np.random.default_rng([seed, 1]).integers(source.height, size=count)]
    number = pl.int_range(1, count + 1, eager=True).cast(pl.String).str.zfill(8)
    return model.with_columns(
        item_id="f" + number,
        title=pl.format("Film {} ({})", number, pl.col("year")),
    )


def _model(users: int, seed: int, catalogue: pl.DataFrame, events: tuple[int, int], days: int) -> Model:
    fewest, most = events
    if users < 1 or catalogue.height < 2 or not 1 <= fewest <= most or days < 1:
        raise RelandError(
            "this world cannot be simulated",
            where="reland_features.demo.simulator",
            got=f"{users} users, {catalogue.height} items, {fewest} to {most} events, {days} days",
            expected="at least 1 user, 2 items and 1 day; 1 <= fewest <= most events",
        )
    return Model.of(catalogue, seed, events, days)


def _chunks(model: Model, users: int, seed: int, size: int) -> Iterator[Draws]:
    for number, first in enumerate(range(0, users, size)):
        yield draw(model, first, min(size, users - first), np.random.default_rng([seed, 2, number]))


def _ids(numbers: np.ndarray, prefix: str, ids: Ids) -> pl.Series:
    series = pl.Series(numbers + 1, dtype=pl.Int64)
    return series if ids == "int" else prefix + series.cast(pl.String).str.zfill(8)


def _source_items(catalogue: pl.DataFrame, ids: Ids) -> pl.DataFrame:
    renamed = catalogue.select(
        "item_id", "title", pl.col("brand").alias("director"), pl.col("categories").alias("genres"), "year"
    )
    if ids == "str":
        return renamed
    return renamed.with_columns(item_id=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))


def _interactions(draws: Draws, catalogue: pl.DataFrame, start: datetime, ids: Ids) -> pl.DataFrame:
    owner = np.repeat(np.arange(len(draws.counts)), draws.counts)
    item_ids = _ids(draws.items, "", "int") if ids == "int" else catalogue["item_id"].gather(draws.items)
    frame = pl.DataFrame(
        {
            "user_id": _ids(_numbers(draws), "u", ids).gather(owner),
            "item_id": item_ids,
            "timestamp": draws.seconds,
            "rating": draws.ratings,
        }
    )
    moment = pl.lit(start, dtype=pl.Datetime("us")) + pl.duration(seconds=pl.col("timestamp"), time_unit="us")
    return frame.with_columns(timestamp=moment)


def _users(draws: Draws, ids: Ids) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": _ids(_numbers(draws), "u", ids),
            "age": draws.age,
            "gender": pl.Series(["M", "F"]).gather(draws.gender),
            "occupation": pl.Series(OCCUPATIONS).gather(draws.occupation),
        }
    )


def _tastes(draws: Draws, model: Model) -> pl.DataFrame:
    names = np.array([a.name for a in model.archetypes], dtype=object)
    genres: list[list[str]] = []
    tastes: list[list[str]] = []
    for rows, weights in zip(draws.tastes, draws.weights, strict=True):
        owned = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight > 0]
        importance: dict[str, float] = {}
        for row, weight in owned:
            for genre, share in model.archetypes[row].genres.items():
                importance[genre] = importance.get(genre, 0.0) + weight * share
        tastes.append([names[row] for row, _ in owned])
        genres.append(sorted(importance, key=lambda g: (-importance[g], g)))
    return pl.DataFrame(
        {
            "user_id": _ids(_numbers(draws), "u", "str"),
            "tastes": tastes,
            "weights": [[float(w) for w in row if w > 0] for row in draws.weights],
            "genres": genres,
            "era": pl.Series(ERAS).gather(draws.era),
        },
        schema_overrides={"weights": pl.List(pl.Float32)},
    )


def _numbers(draws: Draws) -> np.ndarray:
    return np.arange(draws.first, draws.first + len(draws.counts))
