"""Fewer seed users are matched as the published ones were, whatever the settings of the match."""

from __future__ import annotations

import shutil
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from matched_project import DRAWN, NOBODY, ZERO, make_project, of_users
from toy_project import CREATED_AT

from ranking.compact_views import FeaturesError
from ranking.experiments.seed_subset import PoolFolder, subset_rationales
from ranking.features import load_features
from ranking.project import RankingProject
from ranking.splits import Split
from reland_features.config import ColdStart
from reland_features.errors import ArtifactError
from reland_features.pool import ReasoningPool

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def best_seed(tmp_path_factory) -> RankingProject:
    return make_project(tmp_path_factory.mktemp("best") / "project")


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
