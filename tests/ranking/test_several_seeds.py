"""With `match.top_k` above 1 a ranker is served the mixture of rationales that it was trained on."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from test_serve_models import OPTIONS, SMALL, assert_masknet_parity, assert_sasrec_parity
from toy_project import AS_OF, CREATED_AT, make_toy, write_project

from ranking.ctr_data import CtrData
from ranking.ctr_fitting import CtrSettings
from ranking.ctr_fitting import train as train_masknet
from ranking.fitting import FitSettings
from ranking.project import RankingProject
from ranking.seed_lists import rows_and_shares, seed_lists
from ranking.sequential import train as train_sasrec
from ranking.serve import create_app
from reland_features.errors import FeatureStoreError
from reland_features.feast import apply_repository, materialize, open_store
from reland_features.features import build_features
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
TOY = make_toy(users=80, items=60, seeds=12)


def two_seeds() -> dict[str, pl.DataFrame]:
    """Return the features of matches to two seeds each, of another taste and nearly as similar."""
    best = TOY.matches.filter(pl.col("seed_user_id").is_not_null())
    second = best.with_columns(
        rank=pl.lit(2, best.schema["rank"]),
        similarity=(pl.col("similarity") - 0.02 * pl.int_range(pl.len()) / pl.len()).cast(best.schema["similarity"]),
        seed_user_id=pl.Series([f"u{(int(seed[1:]) + 1) % 12}" for seed in best["seed_user_id"]]),
    )
    matches = pl.concat([TOY.matches, second]).sort("user_id", "rank")
    tables = (TOY.users, TOY.histories, TOY.items, TOY.embeddings)
    return build_features(TOY.pool, "pool-1", matches, *tables, as_of=AS_OF, created_at=CREATED_AT, match_detail=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> RankingProject:
    """80 users of two seeds each, online, and both rankers."""
    root = write_project(tmp_path_factory.mktemp("several") / "project", TOY)
    shutil.rmtree(root / "features")
    publish(two_seeds(), root / "features", "run-1")
    apply_repository(root / "feature_repo")
    materialize(root / "feature_repo", root / "features")
    project = RankingProject.open(root)
    train_masknet(project, SMALL, CtrSettings(learning_rate=0.03, max_epochs=3))
    train_sasrec(project, OPTIONS, FitSettings(max_epochs=3, learning_rate=0.02))
    return project


def test_sasrec_scores_online_as_offline(project):
    assert_sasrec_parity(project, TestClient(create_app(project.root, "sasrec")), users=80)


def test_masknet_scores_online_as_offline(project):
    assert_masknet_parity(project, TestClient(create_app(project.root, "masknet")), users=80)


def test_masknet_reads_the_vectors_that_the_wide_layout_publishes(project):
    data = CtrData.of(project, open_store(project.repository), candidates=5)
    wide = pl.read_parquet(project.root / "features" / "user_rationale" / "run-1.parquet")
    published = dict(wide.select("user_id", "rationale_embedding").iter_rows())
    ids = pl.read_parquet(project.mart("holdout"))["user_id"].unique().sort()
    for row, user in enumerate(ids.gather(data.owner)):
        seed = int(data.users.seed[row])
        assert (seed >= 0) == (published[user] is not None)
        if seed >= 0:
            np.testing.assert_allclose(data.users.rationales[seed], published[user], atol=1e-6)
            assert float(data.users.similarity[row]) > 0
    controls = data.shuffled(0).users, data.constant().users
    assert torch.equal(controls[0].rationales, data.users.rationales), "dealt by rows of the same table"
    assert torch.equal(controls[1].seed >= 0, data.users.seed >= 0)


def test_a_repository_that_leaves_seeds_out_is_neither_trained_on_nor_served(project, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(project.root, root)
    path = root / "feature_repo" / "feature_definitions.py"
    text = path.read_text()
    assert text.count("        *_match_detail,\n") == 1
    path.write_text(text.replace("        *_match_detail,\n", ""))
    (root / "feature_repo" / "data" / "registry.db").unlink()
    apply_repository(root / "feature_repo")
    for model in ("sasrec", "masknet"):
        with pytest.raises(FeatureStoreError, match="does not give rankers all the seeds") as error:
            create_app(root, model)
        assert error.value.expected == "user_match_detail"
        assert "feast apply" in error.value.hint
    with pytest.raises(FeatureStoreError, match="does not give rankers all the seeds"):
        CtrData.of(RankingProject.open(root), open_store(root / "feature_repo"), candidates=5)


def test_lists_by_hand():
    users = pl.DataFrame(
        {
            "user_seed_match__seed_user_id": ["a", "a", "a", "a", None],
            "user_seed_match__pool_version": ["p", "p", "p", "q", "p"],
            "user_match_detail__seed_user_ids": [["a", "b", "gone"], ["a", "b"], None, ["a", "b"], []],
            "user_match_detail__seed_weights": [[0.5, 0.3, 0.2], [0.6, 0.4], None, [0.6, 0.4], []],
            "user_match_detail__pool_version": ["p", "older", None, "q", "p"],
        }
    )
    assert seed_lists(users)["seed_user_ids"].to_list() == [["a", "b", "gone"], ["a"], ["a"], ["a", "b"], []]
    seeds = pl.DataFrame({"seed_user_id": ["b", "a"], "pool_version": ["p", "p"]})
    rows, shares = rows_and_shares(users, seeds)
    none = [-1, -1, -1]
    assert rows.tolist() == [[1, 0, -1], [1, -1, -1], [1, -1, -1], none, none]
    np.testing.assert_allclose(shares, [[0.625, 0.375, 0], [1, 0, 0], [1, 0, 0], [0] * 3, [0] * 3], atol=1e-6)
    untyped = users.head(1).with_columns(pl.lit(None).alias(name) for name in users.columns[2:])
    assert seed_lists(untyped)["seed_user_ids"].to_list() == [["a"]]
    assert seed_lists(users.select(users.columns[:2])).rows()[0] == (["a"], [1.0], "p")
