"""A simulated world of two days, and projects of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from reland_features.demo.simulator import simulate, write_world
from reland_features.init import make_project
from reland_features.pipeline import Run
from reland_features.project import Project
from reland_features.sources import discover_columns

SETTINGS = [
    "rationales.engine=dummy",
    "feast.apply=false",
    "feast.materialize=false",
    "match.matcher=exact",
    "encoder.options={max_epochs=2}",
]
EARLY, LATE = "data.as_of=2024-06-01", "data.as_of=2024-07-15"


@dataclass(frozen=True)
class Days:
    """A project with features of two days, and what was made on each."""

    project: Project
    first: Run
    second: Run

    def matches(self, made: Run) -> pl.DataFrame:
        return pl.read_parquet(made.outcomes["match"].artifact.table("matches"))

    def histories(self, made: Run) -> dict[str, list[str]]:
        marts = made.outcomes["prepare"].artifact.table("user_histories")
        return dict(pl.read_parquet(marts, columns=["user_id", "item_ids"]).iter_rows())


def make(folder, *settings: str) -> Project:
    """60 users: of six two do nothing after the first day, and one comes only then; u00000005 has 4 and 1 events."""
    world = simulate(users=60, seed=1)
    kind, is_early = pl.col("user_id").str.slice(1).cast(pl.Int64) % 6, pl.col("timestamp") <= datetime(2024, 6, 1)
    seen = world.interactions.filter((kind > 2) | (is_early & (kind < 2)) | (~is_early & (kind == 2)))
    # Of four events none is held out, of five the last two: the fourth, which the first day knows, among them.
    place = pl.col("timestamp").rank("ordinal").over("user_id", is_early)
    seen = seen.filter((pl.col("user_id") != "u00000005") | (place <= pl.when(is_early).then(4).otherwise(1)))
    tables = write_world(folder / "tables", dataclasses.replace(world, interactions=seen))
    make_project(folder, tables, {}, discover=discover_columns)
    toml = (folder / "reland.toml").read_text().replace("fraction = 0.1", "count = 6")
    (folder / "reland.toml").write_text(toml)
    return Project.open(folder, [*SETTINGS, *settings])


def opened(project: Project, *settings: str) -> Project:
    return Project.open(project.root, [*SETTINGS, *settings])
