"""Fewer seed users are matched as the published ones were, whatever the settings of the match."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from feast import Entity, ValueType
from toy_project import AS_OF, CREATED_AT, make_toy, write_project

from ranking.compact_views import FeaturesError
from ranking.experiments.seed_subset import PoolFolder, subset_rationales
from ranking.features import load_features
from ranking.project import RankingProject
from ranking.splits import Split
from reland_features.artifacts import ArtifactStore
from reland_features.cold_start import with_cold_users
from reland_features.columns import USER_MATCH_DETAIL
from reland_features.config import ColdStart
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ArtifactError
from reland_features.feast import open_store, rationale_view, rationale_views
from reland_features.features import build_features
from reland_features.index.exact import ExactIndex
from reland_features.matching import match_users
from reland_features.pool import ReasoningPool, install
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
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
    made = {"created_at": CREATED_AT, "inputs": [], "config": {}}
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


@pytest.fixture(scope="module")
def best_seed(tmp_path_factory) -> RankingProject:
    return make_project(tmp_path_factory.mktemp("best") / "project")


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


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 3}, {"top_k": 3, "cold_start": ColdStart(enabled=True, min_interactions=7)}],
    ids=["best", "three", "cold start"],
)
def test_with_all_seeds_everybody_has_what_is_published(tmp_path, settings):
    project = make_project(tmp_path / "project", **settings)
    split = Split.of(project)
    published, again = load_features(project, split).rationales, subset_rationales(project, split, 1.0)
    assert of_users(again) == of_users(published)
    assert again.rows.shape == published.rows.shape == (split.n_users, settings.get("top_k", 1))
    assert sorted(again.embeddings.tolist()) == sorted(published.embeddings.tolist())
    fewer = subset_rationales(project, split, 0.5)
    assert (fewer.rows >= 0).sum(axis=1).max() == settings.get("top_k", 1), "fewer seeds, not fewer of them each"
    assert len(fewer.embeddings) == 3


def test_without_ties_the_best_seed_and_the_table_are_those_of_a_plain_argmax(best_seed):
    """Runs of Figure 6 that were made with it stand: a training reads the same table, in the same order."""
    split, pool = Split.of(best_seed), ReasoningPool.read(PoolFolder.of(best_seed).path)
    behavior = dict(
        pl.read_parquet(PoolFolder.of(best_seed).input("behavior_vectors") / "behavior_vectors.parquet").rows()
    )
    of_seed = {row["seed_user_id"]: row for row in pool.frame.iter_rows(named=True)}
    for fraction, kept in ((0.5, DRAWN[:3]), (0.7, DRAWN[:4])):
        found = subset_rationales(best_seed, split, fraction)
        keys = np.array([of_seed[seed]["vector"] for seed in kept])
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        for user, row, weight in zip(split.user_ids, found.rows, found.weights, strict=True):
            if user not in (NOBODY, ZERO):
                assert row.tolist() == [(keys @ np.array(behavior[user])).argmax()]
                assert weight.tolist() == [1.0]
        assert found.embeddings.tolist() == [of_seed[seed]["rationale_embedding"] for seed in kept]


def test_nobody_without_a_direction_has_a_rationale(best_seed):
    split = Split.of(best_seed)
    has = dict(zip(split.user_ids, subset_rationales(best_seed, split, 0.5).has, strict=True))
    assert [user for user, there in has.items() if not there] == [NOBODY, ZERO]


def test_of_equally_near_seeds_the_lowest_id_counts_not_the_first_drawn(tmp_path):
    ties = np.eye(6, 4, dtype=np.float32)
    ties[4], ties[5] = ties[1], [0, 0, 1, 1]  # u4 is drawn first, u1 second
    project = make_project(
        tmp_path / "project", seed_vectors=ties, vectors={n: ties[n] for n in range(6)} | {20: ties[1]}
    )
    split = Split.of(project)
    texts = dict(zip(split.user_ids, of_users(subset_rationales(project, split, 0.5)), strict=True))
    of_seed = dict(
        ReasoningPool.read(PoolFolder.of(project).path).frame.select("seed_user_id", "rationale_embedding").rows()
    )
    assert texts["u20"] == texts["u4"] == texts["u1"] == [(of_seed["u1"], 1.0)]


@pytest.fixture
def republish(best_seed):
    """Publish changed rationales of seeds for the same time, later, which Feast prefers; undone after the test."""
    folder = best_seed.root / "features" / "seed_rationale"

    def write(**columns):
        later = pl.lit(CREATED_AT + timedelta(days=1), pl.Datetime("us"))
        frame = pl.read_parquet(folder / "run-1.parquet").with_columns(created_timestamp=later, **columns)
        frame.write_parquet(folder / "run-2.parquet")

    yield write
    (folder / "run-2.parquet").unlink()


def test_a_seed_whose_embedding_is_null_is_no_rationale(best_seed, republish):
    split = Split.of(best_seed)
    before = subset_rationales(best_seed, split, 0.5)
    republish(rationale_embedding=pl.when(pl.col("seed_user_id") != "u1").then("rationale_embedding"))
    after = subset_rationales(best_seed, split, 0.5)
    of_u1 = of_users(before)[split.user_ids.to_list().index("u1")]
    assert of_users(after) == [[] if texts == of_u1 else texts for texts in of_users(before)]
    assert len(after.embeddings) == len(before.embeddings) - 1


def test_rows_of_another_pool_are_an_error(best_seed, republish):
    republish(pool_version=pl.lit("pool-2"))
    with pytest.raises(FeaturesError, match="another reasoning pool"):
        subset_rationales(best_seed, Split.of(best_seed), 0.5)


def test_without_the_folder_of_the_matches_the_error_says_so(best_seed, tmp_path):
    shutil.copytree(best_seed.root, tmp_path / "project")
    shutil.rmtree(tmp_path / "project" / ".reland" / "artifacts" / "matches")
    project = RankingProject.open(tmp_path / "project")
    with pytest.raises(ArtifactError, match="the matches of the published features are not there"):
        subset_rationales(project, Split.of(project), 0.5)
