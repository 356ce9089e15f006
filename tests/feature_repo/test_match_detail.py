"""Several rationales per user through Feast: one vector, whichever layout it is read from."""

from __future__ import annotations

import shutil
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from feast import Entity, ValueType
from toy_project import AS_OF, make_toy, write_project

from ranking.features import load_features
from ranking.project import RankingProject
from ranking.splits import Split
from reland_features.columns import FEATURE_TABLES, MATCHES
from reland_features.errors import FeatureStoreError
from reland_features.feast import apply_repository, check_freshness, materialize, open_store, rationale_views
from reland_features.features import build_features
from reland_features.fused_rationales import fuse, rows_and_weights
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
TOY = make_toy()
USERS = [f"u{n}" for n in range(30)]


def matches() -> pl.DataFrame:
    """Three seeds for every matched user; the last two users have none."""
    rng = np.random.default_rng(0)
    rows = []
    for user in USERS[:-2]:
        seeds = rng.choice(TOY.pool["seed_user_id"].to_list(), size=3, replace=False)
        rows += [(user, rank, seed, 0.9 - 0.05 * rank * rng.random()) for rank, seed in enumerate(seeds, 1)]
    rows += [(user, 1, None, None) for user in USERS[-2:]]
    return pl.DataFrame(rows, schema=MATCHES.polars_schema(), orient="row")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that published single rationales first, then three per user; applied and materialized."""
    root = write_project(tmp_path_factory.mktemp("detail") / "project", TOY)
    tables = (TOY.users, TOY.histories, TOY.items, TOY.embeddings)
    later = {"as_of": AS_OF, "created_at": datetime(2024, 3, 3)}
    frames = build_features(
        TOY.pool, "pool-1", matches(), *tables, **later, match_detail=True, temperature=0.05, cold_start=["u4"]
    )
    publish(frames, root / "features", "run-2")
    path = root / ".reland" / "current.json"
    path.write_text(path.read_text().replace("run-1", "run-2"))
    apply_repository(root / "feature_repo")
    counts = materialize(root / "feature_repo", root / "features")
    assert counts == {"user_match_detail": 30} | dict(
        zip((table.name for table in FEATURE_TABLES), (30, 30, 6, 30, 40), strict=True)
    )
    return root


def fused_by_hand(seed_user_ids: list, seed_weights: list, embedding_of: dict) -> np.ndarray:
    """Gather the compact layout's seeds and mix them, as a ranker does."""
    table = np.array(list(embedding_of.values()), dtype=np.float32)
    lists = pl.Series(seed_user_ids, dtype=pl.List(pl.String)), pl.Series(seed_weights, dtype=pl.List(pl.Float32))
    return fuse(table, *rows_and_weights(*lists, pl.Series(list(embedding_of))))


def test_compact_and_wide_layout_give_the_same_vectors_online_and_offline(project):
    store = open_store(project / "feature_repo")
    detail = ["user_match_detail:seed_user_ids", "user_match_detail:seed_weights", "user_match_detail:is_cold_start"]
    wide = "user_rationale:rationale_embedding"
    online = store.get_online_features([*detail, wide], [{"user_id": user} for user in USERS]).to_dict()
    seeds = TOY.pool["seed_user_id"].to_list()
    rationales = store.get_online_features(
        ["seed_rationale:rationale_embedding"], [{"seed_user_id": seed} for seed in seeds]
    ).to_dict()
    embedding_of = dict(zip(seeds, rationales["rationale_embedding"], strict=True))
    fused = fused_by_hand(online["seed_user_ids"], online["seed_weights"], embedding_of)
    np.testing.assert_array_equal(fused[:-2], np.array(online["rationale_embedding"][:-2], dtype=np.float32))
    assert online["rationale_embedding"][-2:] == [None, None]
    assert [len(ids or []) for ids in online["seed_user_ids"]] == [3] * 28 + [0] * 2
    assert [user for user, cold in zip(USERS, online["is_cold_start"], strict=True) if cold] == ["u4"]

    frame = pd.DataFrame({"user_id": USERS, "event_timestamp": pd.Timestamp(AS_OF), "row": range(30)})
    joined = store.get_historical_features(frame, [*detail, wide]).to_df().sort_values("row")
    offline = [list(ids) for ids in joined["seed_user_ids"]], [list(w) for w in joined["seed_weights"]]
    np.testing.assert_array_equal(fused_by_hand(*offline, embedding_of)[:-2], np.stack(joined[wide[15:]][:-2]))
    np.testing.assert_array_equal(np.stack(joined[wide[15:]][:-2]), fused[:-2])


def test_a_ranker_reads_the_seeds_and_weights_that_were_published(project):
    ranking = RankingProject.open(project)
    split = Split.of(ranking)
    given = load_features(ranking, split).rationales
    assert given.rows.shape == (split.n_users, 3)
    wide = pl.read_parquet(project / "features" / "user_rationale" / "run-2.parquet")
    published = dict(wide.select("user_id", "rationale_embedding").iter_rows())
    mixed = np.einsum("uk,ukd->ud", given.weights, given.embeddings[given.rows])
    for user, has, vector in zip(split.user_ids, given.has, mixed, strict=True):
        assert has == (published[user] is not None)
        if has:
            np.testing.assert_allclose(vector, published[user], atol=1e-6)


def test_a_repository_without_the_view_says_what_to_add(project, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(project, root, ignore=shutil.ignore_patterns("data"))
    user, item, seed = (
        Entity(name=name, join_keys=[f"{key}_id"], value_type=ValueType.STRING)
        for name, key in (("user", "user"), ("item", "item"), ("seed", "seed_user"))
    )
    views = rationale_views(root / "features", user=user, item=item, seed=seed)  # the five of before
    open_store(root / "feature_repo").apply([user, item, seed, *views])
    with pytest.raises(FeatureStoreError, match="no view of a published table") as error:
        materialize(root / "feature_repo", root / "features")
    assert error.value.got == "user_match_detail"
    assert "rationale_view" in error.value.hint


def test_an_online_store_with_other_weights_is_found_out(project, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(project, root)
    path = root / "features" / "user_match_detail" / "run-2.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.col("seed_weights").list.reverse()).write_parquet(path)
    with pytest.raises(FeatureStoreError, match="does not hold") as error:
        check_freshness(root / "feature_repo", root / "features")
    assert error.value.where == "user_match_detail.seed_weights"
