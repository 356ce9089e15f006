"""A toy project whose users are matched by their vectors, with the folders that a run leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
from feast import Entity, ValueType
from toy_project import AS_OF, CREATED_AT, make_toy, write_project

from ranking.project import RankingProject
from reland_features.artifacts import ArtifactStore
from reland_features.cold_start import with_cold_users
from reland_features.columns import USER_MATCH_DETAIL
from reland_features.encoders.base import BehaviorVectors
from reland_features.feast import open_store, rationale_view, rationale_views
from reland_features.features import build_features
from reland_features.index.exact import ExactIndex
from reland_features.matching import match_users
from reland_features.pool import ReasoningPool, install
from reland_features.publishing import publish

SEEDS = [f"u{n}" for n in range(6)]
DRAWN = ["u4", "u1", "u5", "u0", "u3", "u2"]
NOBODY, ZERO = "u7", "u8"


def make_project(folder, *, top_k=1, cold_start=None, vectors=None, seed_vectors=None) -> RankingProject:
    """Publish a toy world whose users are matched by their vectors, with the folders that a run leaves."""
    toy = make_toy(users=40, items=30, seeds=len(SEEDS))
    profile = pl.Series([f"taste: {n % 5}; city: {n % 3}" for n in range(40)])
    toy = dataclasses.replace(toy, users=toy.users.with_columns(profile=profile))
    drawn = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    drawn[int(ZERO[1:])] = 0
    for row, vector in (vectors or {}).items():
        drawn[row] = vector
    known = [n for n in range(39) if f"u{n}" != NOBODY]
    behavior = BehaviorVectors(pl.Series([f"u{n}" for n in known]), drawn[known], "e", AS_OF)
    held = drawn[:6] if seed_vectors is None else seed_vectors
    pool = ReasoningPool(
        toy.pool.with_columns(vector=pl.Series(held.tolist(), dtype=pl.List(pl.Float32))), "pool-1", "e", {}, AS_OF
    )
    store = ArtifactStore(folder / ".reland" / "artifacts")
    made = {"created_at": CREATED_AT, "inputs": [], "config": {}, "as_of": AS_OF}
    with store.create("behavior_vectors", "behavior_vectors-1", **made) as draft:
        behavior.write(draft.table("behavior_vectors"))
        draft.facts["encoder_id"] = "e"
    with store.create("seed_users", "seed_users-1", **made) as draft:
        pl.DataFrame({"user_id": DRAWN}).write_parquet(draft.table("seed_users"))
    inputs = ["behavior_vectors-1", "seed_users-1"]
    with store.create("reasoning_pool", "reasoning_pool-1", **made | {"inputs": inputs}) as draft:
        pool.write(draft.path)
        draft.facts["pool_version"] = "pool-1"
    config = {"top_k": top_k} if top_k > 1 else {}
    cold = pl.Series([], dtype=pl.String)
    if cold_start:
        config |= {"cold_start": cold_start.model_dump(), "profile": ["taste", "city"]}
        started = with_cold_users(
            behavior, toy.users, ["taste", "city"], cold_start, seeds=pool.frame["seed_user_id"], seed=0
        )
        behavior, cold = started.vectors, started.user_ids
    with store.create("matches", "matches-1", **made | {"config": config}):
        pass
    detailed = {"temperature": 0.3} if top_k > 1 or cold_start else {}
    with store.create("features", "run-1", **made | {"inputs": ["matches-1"], "config": detailed}):
        pass
    index = ExactIndex()
    install(pool, index, "toy")
    matches = match_users(behavior, pool, index, prefix="toy", users=toy.users["user_id"], k=top_k)
    root = write_project(folder, toy)
    shutil.rmtree(root / "features")
    tables = (pool.frame, "pool-1", matches, toy.users, toy.histories, toy.items, toy.embeddings)
    times = {"as_of": AS_OF, "created_at": CREATED_AT}
    publish(
        build_features(*tables, **times, match_detail=bool(detailed), **detailed, cold_start=cold.to_list()),
        root / "features",
        "run-1",
    )
    _define(root)
    path = root / ".reland" / "current.json"
    current = json.loads(path.read_text())
    path.write_text(json.dumps(current | {"pool": ".reland/artifacts/reasoning_pool/reasoning_pool-1"}))
    return RankingProject.open(root)


def _define(root) -> None:
    """Tell Feast of the views that rankers read."""
    user, item, seed = (
        Entity(name=name, join_keys=[f"{key}_id"], value_type=ValueType.STRING)
        for name, key in (("user", "user"), ("item", "item"), ("seed", "seed_user"))
    )
    views = [*rationale_views(root / "features", user=user, item=item, seed=seed)]
    if (root / "features" / USER_MATCH_DETAIL.name).is_dir():
        views.append(rationale_view(USER_MATCH_DETAIL, root / "features", entity=user))
    open_store(root / "feature_repo").apply([user, item, seed, *views])


def of_users(rationales) -> list[list[tuple[list[float], float]]]:
    """Return each user's texts and their weights, the best first."""
    return [
        [
            (rationales.embeddings[row].tolist(), float(weight))
            for row, weight in zip(rows, weights, strict=True)
            if row >= 0
        ]
        for rows, weights in zip(rationales.rows, rationales.weights, strict=True)
    ]
