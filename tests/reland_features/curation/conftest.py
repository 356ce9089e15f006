"""A project of 30 users whose stages run in-process: marts by hand instead of dbt, a hash instead of MiniLM."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features import stages
from reland_features.columns import HOLDOUT, INTERACTIONS, ITEMS, USER_HISTORIES, USERS
from reland_features.project import Project
from reland_features.stages import serving

REPOSITORY = Path(__file__).resolve().parents[3] / "feature_repo"
AS_OF = datetime(2024, 3, 1, 12)
GENRES = ("Drama", "Comedy", "Western", "Crime", "Horror")
SETTINGS = """
[data]
interactions = "interactions.parquet"
items = "items.parquet"
[encoder]
name = "toy_encoder:Genres"
dimension = 5
[seeds]
count = 8
clusters = 3
[rationales]
prompt = "movies"
engine = "dummy"
model = "dummy"
[match]
matcher = "exact"
"""
ENCODER = """
import numpy as np
from reland_features.encoders.base import BehaviorVectors

class Genres:
    encoder_id = "toy-genres"
    def __init__(self, dimension, seed):
        self.dimension = dimension
    def encode(self, interactions, as_of):
        counts = np.zeros((len(interactions.user_ids), self.dimension), np.float32)
        np.add.at(counts, (interactions.user_rows, interactions.item_rows % self.dimension), 1)
        return BehaviorVectors(interactions.user_ids, counts, self.encoder_id, as_of)
"""


class HashEncoder:
    """Embed a text by its hash: the same text, the same vector of length 1."""

    encoder_id, source = "hash", "test"

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = [
            np.random.default_rng(int(hashlib.sha256(t.encode()).hexdigest()[:8], 16)).normal(size=6) for t in texts
        ]
        return (np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Toy:
    """A project folder; `build` runs its stages up to publishing and returns the outcomes by stage."""

    root: Path

    def open(self, *settings: str) -> Project:
        return Project.open(self.root, settings)

    def build(self, *settings: str) -> dict[str, stages.Outcome]:
        project, quiet = self.open(*settings), lambda done, total: None
        marts = stages.Outcome("prepare", project.artifacts.all("marts")[-1], cached=True)
        o = {"prepare": marts, "encode": stages.encode(project, marts, quiet)}
        o["sample"] = stages.sample(project, marts, o["encode"], quiet)
        o["generate"] = stages.generate(project, marts, o["sample"], quiet)
        o["pool"] = stages.build_pool(project, o["encode"], o["sample"], o["generate"], quiet)
        o["match"] = stages.match(project, marts, o["encode"], o["pool"], quiet)
        o["publish"] = stages.publish(project, marts, o["sample"], o["pool"], o["match"], quiet)
        return o

    def serve(self, outcomes: dict[str, stages.Outcome], *settings: str) -> stages.Outcome:
        """Materialize into a copy of the project's Feast repository."""
        if not (self.root / "feature_repo").exists():
            shutil.copytree(
                REPOSITORY, self.root / "feature_repo", ignore=shutil.ignore_patterns("data", "__pycache__")
            )
        return stages.serve(self.open(*settings), outcomes["publish"], lambda done, total: None)

    def leave(self, user: str) -> None:
        """Take a user out of the tables; what `build` makes from then on knows nothing of it."""
        store = self.open().artifacts
        before = store.all("marts")[-1]
        later = datetime.fromisoformat(before.manifest["created_at"]) + timedelta(hours=1)
        with store.create("marts", f"{before.id}-without-{user}", created_at=later, config={}, inputs=[]) as draft:
            for path in before.path.glob("*.parquet"):
                table = pl.read_parquet(path)
                kept = table.filter(pl.col("user_id") != user) if "user_id" in table.columns else table
                kept.write_parquet(draft.table(path.stem))
            draft.facts |= {name: before.manifest[name] for name in ("as_of", "rows_in", "rows_out", "seconds")}

    def newest(self, table: str) -> pl.DataFrame:
        """Of every key the row that Feast takes: the newest by event timestamp, then by created timestamp."""
        rows = pl.read_parquet(self.root / "features" / table / "*.parquet")
        return rows.sort("event_timestamp", "created_timestamp").unique(rows.columns[0], keep="last").sort(pl.nth(0))

    def published(self, outcomes: dict[str, stages.Outcome], table: str) -> pl.DataFrame:
        return pl.read_parquet(self.root / "features" / table / f"{outcomes['publish'].artifact.id}.parquet")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setattr(serving, "text_encoder", lambda project: HashEncoder())
    root = tmp_path / "D"
    root.mkdir()
    (root / "reland.toml").write_text(SETTINGS)
    (root / "toy_encoder.py").write_text(ENCODER)
    _marts(Project.open(root))
    return Toy(root)


def _marts(project: Project) -> None:
    rng = np.random.default_rng(0)
    items = [f"i{n:02d}" for n in range(40)]
    events, held = [], []
    for user in (f"u{n:02d}" for n in range(30)):
        drawn = rng.choice(40, size=9, replace=False)
        for order, item in enumerate(drawn[:7], 1):
            events.append((user, items[item], AS_OF - timedelta(days=9 - order), "interaction", 1.0, order))
        held += [(user, items[item], AS_OF + timedelta(days=1), rank) for rank, item in enumerate(drawn[7:], 1)]
    interactions = pl.DataFrame(events, schema=INTERACTIONS.polars_schema(), orient="row")
    counts = dict(interactions["item_id"].value_counts().iter_rows())
    catalogue = [(i, f"Film {n}", None, [GENRES[n % 5]], None, counts.get(i, 0)) for n, i in enumerate(items)]
    grouped = interactions.group_by("user_id", maintain_order=True)
    histories = grouped.agg("item_id", pl.len().cast(pl.Int64).alias("n"), pl.col("interacted_at").max()).rows()
    users = [(user, None, n, "L1", last, last) for user, _, n, last in histories]
    with project.artifacts.create("marts", "marts-any-toy", created_at=AS_OF, config={}, inputs=[]) as draft:
        interactions.write_parquet(draft.table("interactions"))
        for table, rows in ((ITEMS, catalogue), (USERS, users), (USER_HISTORIES, histories), (HOLDOUT, held)):
            pl.DataFrame(rows, schema=table.polars_schema(), orient="row").write_parquet(draft.table(table.name))
        draft.facts |= {"as_of": AS_OF.isoformat(), "rows_in": 210, "rows_out": 210, "seconds": 0.0}
