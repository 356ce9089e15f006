"""Several seeds per user: who they are, what each counts, and the one vector that is published."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "feature_repo"))

from toy_project import AS_OF, CREATED_AT, Toy, make_toy

from reland_features.columns import FEATURE_TABLES, MATCHES, POOL, USER_MATCH_DETAIL
from reland_features.encoders.base import BehaviorVectors
from reland_features.features import build_features
from reland_features.fused_rationales import fuse, rows_and_weights, seeds_of_users
from reland_features.index import ExactIndex, MilvusIndex
from reland_features.matching import match_users
from reland_features.pool import ReasoningPool, install
from reland_features.publishing import publish, published_run

TOY = make_toy()


def matches_of(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=MATCHES.polars_schema(), orient="row")


# --- the k most similar seeds ---


def pool_of(ids: list[str], vectors: np.ndarray) -> ReasoningPool:
    made = {"cluster_id": 0, "rationale_embedding": [1.0], "rationale_components": [0.0], "summary": "", "items": ["b"]}
    rows = [
        {"seed_user_id": seed, "vector": row.tolist(), "categories": ["a"], **made}
        for seed, row in zip(ids, np.asarray(vectors, np.float32), strict=True)
    ]
    return ReasoningPool(pl.DataFrame(rows, schema=POOL.polars_schema()).sort("seed_user_id"), "v1", "e", {}, AS_OF)


@pytest.fixture(params=["exact", "milvus"])
def index(request, tmp_path):
    made = ExactIndex() if request.param == "exact" else MilvusIndex(tmp_path / "milvus.db")
    yield made
    made.close()


def match(vectors: np.ndarray, pool: ReasoningPool, index, k: int, **options) -> pl.DataFrame:
    install(pool, index, "reland")
    ids = pl.Series([f"u{n}" for n in range(len(vectors))])
    users = BehaviorVectors(ids, np.asarray(vectors, np.float32), "e", AS_OF)
    return match_users(users, pool, index, prefix="reland", k=k, **options)


def test_seeds_in_order_of_similarity_equal_ones_by_id(index):
    # d, b and e lie the same way; from (1, 0) they are at 0.6, a at 1 and c at 0.
    pool = pool_of(["d", "b", "e", "a", "c"], np.array([[3, 4], [6, 8], [12, 16], [9, 0], [0, 1]]))
    found = match(np.array([[2, 0], [np.nan, 1]]), pool, index, k=3)
    assert found.select("user_id", "rank", "seed_user_id").rows() == [
        ("u0", 1, "a"),
        ("u0", 2, "b"),
        ("u0", 3, "d"),
        ("u1", 1, None),
    ]
    np.testing.assert_allclose(found["similarity"].to_numpy()[:3], [1, 0.6, 0.6], atol=1e-7)
    assert found.schema == MATCHES.polars_schema()


def test_more_seeds_asked_for_than_there_are(index):
    found = match(np.array([[1, 0]]), pool_of(["a", "b"], np.eye(2)), index, k=5)
    assert found["seed_user_id"].to_list() == ["a", "b"]


def test_rank_1_of_k_is_the_match_at_k_1_and_milvus_equals_exact(tmp_path):
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=(80, 8)).astype(np.float32)
    seeds[40:60] = seeds[:20] * 3  # equal directions
    pool, users = pool_of([f"s{n:02d}" for n in rng.permutation(80)], seeds), rng.normal(size=(150, 8))
    milvus = MilvusIndex(tmp_path / "milvus.db")
    try:
        one, four, other = (match(users, pool, i, k) for i, k in ((milvus, 1), (milvus, 4), (ExactIndex(), 4)))
    finally:
        milvus.close()
    assert_frame_equal(four, other, check_exact=True)
    assert_frame_equal(four.filter(rank=1), one, check_exact=True)
    by_user = four["similarity"].to_numpy().reshape(150, 4)
    assert (np.diff(by_user, axis=1) <= 0).all()
    unit = seeds / np.linalg.norm(seeds, axis=1, keepdims=True)
    cosines = np.sort(unit @ (users / np.linalg.norm(users, axis=1, keepdims=True)).T, axis=0)[::-1][:4].T
    np.testing.assert_allclose(by_user, cosines, atol=1e-6)
    assert four.group_by("user_id").agg(pl.col("seed_user_id").n_unique())["seed_user_id"].unique().to_list() == [4]


# --- weights ---


def test_weights_by_hand():
    # at temperature 0.1 a lead of 0.1 · ln 3 counts three times as much
    matches = matches_of(
        ("a", 1, "s", 0.9), ("a", 2, "t", 0.9 - 0.1 * np.log(3)), ("b", 1, None, None), ("c", 1, "t", -0.2)
    )
    found = seeds_of_users(matches, 0.1)
    assert found.select("user_id", "seed_user_ids").rows() == [("a", ["s", "t"]), ("c", ["t"])]
    np.testing.assert_allclose(found["seed_weights"][0].to_numpy(), [0.75, 0.25], atol=1e-6)
    assert found["seed_weights"][1].to_list() == [1.0]


def test_temperature_goes_from_the_best_alone_to_the_plain_mean():
    matches = matches_of(("a", 1, "s", 0.9), ("a", 2, "t", 0.8), ("a", 3, "v", -1.0))
    assert seeds_of_users(matches, 1e-4)["seed_weights"][0].to_list() == [1.0, 0.0, 0.0]
    np.testing.assert_allclose(seeds_of_users(matches, 1e6)["seed_weights"][0].to_numpy(), 1 / 3, atol=1e-6)


def test_the_sum_by_hand_is_not_brought_to_unit_length():
    table = np.array([[1, 0], [0, 1], [-0.0, -1]], dtype=np.float32)
    rows = np.array([[0, 1], [2, -1], [-1, -1]])
    weights = np.array([[0.75, 0.25], [1, 0], [0, 0]], dtype=np.float32)
    fused = fuse(table, rows, weights)
    assert fused.tolist() == [[0.75, 0.25], [0, -1], [0, 0]]
    assert fuse(table, rows[1:2, :1], weights[1:2, :1]).tobytes() == table[2:].tobytes()  # the sign of zero too


def test_lists_become_rows_of_a_table():
    ids = pl.Series([["s", "t"], None, ["gone", "s"], []], dtype=pl.List(pl.String))
    weights = pl.Series([[0.75, 0.25], None, [0.5, 0.5], []], dtype=pl.List(pl.Float32))
    rows, shares = rows_and_weights(ids, weights, pl.Series(["t", "s"]))
    assert rows.tolist() == [[1, 0], [-1, -1], [-1, 1], [-1, -1]]
    assert shares.tolist() == [[0.75, 0.25], [0, 0], [0, 0.5], [0, 0]]


# --- what is published ---


def features_of(toy: Toy, matches: pl.DataFrame, **options) -> dict[str, pl.DataFrame]:
    tables = (toy.users, toy.histories, toy.items, toy.embeddings)
    return build_features(toy.pool, "pool-1", matches, *tables, as_of=AS_OF, created_at=CREATED_AT, **options)


def several(toy: Toy, k: int = 3) -> pl.DataFrame:
    """Every matched user gets k seeds; the last two users stay without."""
    rng = np.random.default_rng(1)
    rows = []
    for user, seed in toy.matches.filter(rank=1).select("user_id", "seed_user_id").iter_rows():
        if seed is None:
            rows.append((user, 1, None, None))
            continue
        seeds = rng.choice(toy.pool["seed_user_id"].to_list(), size=k, replace=False)
        for rank, cosine in enumerate(np.sort(rng.uniform(0.2, 1, size=k))[::-1], 1):
            rows.append((user, rank, seeds[rank - 1], cosine))
    return matches_of(*rows)


def test_at_k_1_every_table_is_that_of_equation_3_bit_by_bit():
    plain, fused = features_of(TOY, TOY.matches), features_of(TOY, TOY.matches, match_detail=True)
    assert set(fused) - set(plain) == {"user_match_detail"}
    for table in FEATURE_TABLES:
        assert_frame_equal(fused[table.name], plain[table.name], check_exact=True)
    for table in ("user_rationale", "user_seed_match"):  # not even a sign of zero
        for name in ("rationale_embedding", "rationale_components"):
            if name in plain[table].columns:
                bits = [frame[table][name].drop_nulls().explode().to_numpy().tobytes() for frame in (plain, fused)]
                assert bits[0] == bits[1]
    detail = fused["user_match_detail"]
    assert detail["seed_user_ids"].to_list() == [[s] if s else [] for s in TOY.matches["seed_user_id"]]
    assert detail["seed_weights"].to_list() == [[1.0] if s else [] for s in TOY.matches["seed_user_id"]]
    assert not detail["is_cold_start"].any()


def test_without_the_detail_only_rank_1_is_published():
    matches = several(TOY)
    assert_frame_equal(
        features_of(TOY, matches)["user_rationale"], features_of(TOY, matches.filter(rank=1))["user_rationale"]
    )


def test_wide_is_the_fused_embedding_and_the_best_seeds_columns():
    matches = several(TOY)
    frames = features_of(TOY, matches, match_detail=True, temperature=0.2, cold_start=["u3"])
    embedding = dict(zip(TOY.pool["seed_user_id"], np.array(TOY.pool["rationale_embedding"].to_list()), strict=True))
    wide = {row["user_id"]: row for row in frames["user_rationale"].iter_rows(named=True)}
    for (user,), rows in matches.group_by("user_id"):
        seeds, cosines = rows["seed_user_id"].to_list(), rows["similarity"].to_numpy().astype(float)
        if seeds == [None]:
            assert wide[user]["rationale_embedding"] is None
            continue
        shares = np.exp(cosines / 0.2) / np.exp(cosines / 0.2).sum()
        expected = shares @ np.stack([embedding[seed] for seed in seeds])
        np.testing.assert_allclose(wide[user]["rationale_embedding"], expected, atol=1e-6)
        assert np.linalg.norm(wide[user]["rationale_embedding"]) < 1
        assert (wide[user]["seed_user_id"], wide[user]["similarity"]) == (seeds[0], rows["similarity"][0])
    detail = frames["user_match_detail"]
    assert detail.schema == USER_MATCH_DETAIL.polars_schema()
    assert detail.filter("is_cold_start")["user_id"].to_list() == ["u3"]
    np.testing.assert_allclose(detail["seed_weights"].list.sum().to_numpy()[:-2], 1, atol=1e-6)


def test_components_are_those_of_the_fused_embedding():
    from sklearn.decomposition import PCA

    model = PCA(4).fit(np.array(TOY.pool["rationale_embedding"].to_list()))
    components = model.transform(np.array(TOY.pool["rationale_embedding"].to_list())).astype(np.float32)
    toy = Toy(**{n: getattr(TOY, n) for n in Toy.__dataclass_fields__} | {
        "pool": TOY.pool.with_columns(rationale_components=pl.Series(components.tolist(), dtype=pl.List(pl.Float32)))
    })  # fmt: skip
    wide = features_of(toy, several(toy), match_detail=True)["user_rationale"].drop_nulls()
    np.testing.assert_allclose(
        np.array(wide["rationale_components"].to_list()),
        model.transform(np.array(wide["rationale_embedding"].to_list())),
        atol=1e-5,
    )


def test_the_optional_table_is_published_before_the_others_and_belongs_to_its_run_only(tmp_path):
    publish(features_of(TOY, several(TOY), match_detail=True), tmp_path, "run-1")
    assert published_run(tmp_path).tables == [USER_MATCH_DETAIL, *FEATURE_TABLES]
    later = build_features(
        TOY.pool, "pool-1", TOY.matches, TOY.users, TOY.histories, TOY.items, TOY.embeddings,
        as_of=AS_OF, created_at=datetime(2024, 3, 4),
    )  # fmt: skip
    publish(later, tmp_path, "run-2")
    assert published_run(tmp_path).tables == list(FEATURE_TABLES)
