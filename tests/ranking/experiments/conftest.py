"""A data set made up, with both projects, their pool and its inputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "feature_repo"))
sys.path.insert(0, str(Path(__file__).parent))

from made_up import FILE, World, linked
from toy_project import AS_OF, Toy, make_toy, write_project

from reland_features.feast import apply_repository


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One project of 40 users over 30 items with 6 seeds, which serves both tasks; tests only read it."""
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "made-up.toml").write_text(FILE)
    toy = make_toy(users=40, items=30, seeds=6)
    root = write_project(folder / "projects" / "made-up" / "sequential", toy)
    apply_repository(root / "feature_repo")
    _write_pool(root, toy)
    (root.parent / "collaborative").symlink_to(root)
    return World(folder, toy)


@pytest.fixture
def world(prepared: World, tmp_path: Path) -> World:
    """The same projects, by a link, and an empty folder of results."""
    return linked(prepared, tmp_path)


def _write_pool(root: Path, toy: Toy) -> None:
    """Write the pool and what it was made from, as the stages leave them: user n points where seed n does."""
    artifacts = root / ".reland" / "artifacts"
    seeds = toy.pool["seed_user_id"]
    angles = np.linspace(0, 3, len(seeds))
    directions = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    pool = toy.pool.with_columns(vector=pl.Series(directions.tolist(), dtype=pl.List(pl.Float32)))
    users = toy.users["user_id"].head(toy.users.height - 1)
    vectors = directions[np.arange(len(users)) % len(seeds)]
    tables = {
        "reasoning_pool": pool,
        "behavior_vectors": pl.DataFrame({"user_id": users, "vector": vectors.tolist()}),
        "seed_users": pl.DataFrame({"user_id": seeds.reverse()}),
        "rationales": pl.DataFrame(
            {"seed_user_id": seeds, "prompt_tokens": range(100, 106), "completion_tokens": [10] * 6}
        ),
    }
    facts = {
        "created_at": "2024-03-02",
        "as_of": AS_OF.isoformat(),
        "pool_version": "pool-1",
        "encoder_id": "made up",
        "usage": {"total": {"calls": 6, "seconds": 36.0}},
        "rows_out": 6,
        "engine_id": "nobody",
        "embedded": "summary",
    }
    inputs = [f"{name}-1" for name in tables if name != "reasoning_pool"]
    for name, table in tables.items():
        folder = artifacts / name / f"{name}-1"
        folder.mkdir(parents=True)
        table.write_parquet(folder / f"{name}.parquet")
        (folder / "manifest.json").write_text(json.dumps({"inputs": inputs, **facts}))
    described = {"pool_version": "pool-1", "encoder_id": "made up", "ids": {}, "as_of": AS_OF.isoformat(), "seeds": 6}
    (artifacts / "reasoning_pool" / "reasoning_pool-1" / "pool.json").write_text(json.dumps(described))
    path = root / ".reland" / "current.json"
    current = json.loads(path.read_text())
    features = artifacts / "features" / current["features_run"]
    features.mkdir(parents=True)
    made = {"created_at": "2024-03-02", "inputs": ["matches-1"], "config": {"text_encoder_id": "made up"}}
    (features / "manifest.json").write_text(json.dumps(made))
    (artifacts / "matches" / "matches-1").mkdir(parents=True)
    matched = {**made, "config": {}, "inputs": ["behavior_vectors-1", "reasoning_pool-1"]}
    (artifacts / "matches" / "matches-1" / "manifest.json").write_text(json.dumps(matched))
    path.write_text(json.dumps({**current, "pool": ".reland/artifacts/reasoning_pool/reasoning_pool-1"}))
