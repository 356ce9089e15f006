from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features.columns import MATCHES, POOL
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import EncoderMismatchError, PoolError
from reland_features.index import ExactIndex, MilvusIndex
from reland_features.matching import match_users
from reland_features.pool import ReasoningPool, install

AS_OF = datetime(2024, 5, 1)


def pool_of(ids: list[str], vectors: np.ndarray, encoder_id: str = "toy") -> ReasoningPool:
    frame = pl.DataFrame(
        {
            "seed_user_id": ids,
            "cluster_id": [0] * len(ids),
            "vector": np.asarray(vectors, np.float32).tolist(),
            "rationale_embedding": [[1.0]] * len(ids),
            "rationale_components": [[0.0]] * len(ids),
            "summary": [""] * len(ids),
            "categories": [["a"]] * len(ids),
            "items": [["b"]] * len(ids),
        },
        schema=POOL.polars_schema(),
    ).sort("seed_user_id")
    return ReasoningPool(frame, "v1", encoder_id, {}, AS_OF)


def users_of(vectors: np.ndarray, ids: list[str] | None = None, encoder_id: str = "toy") -> BehaviorVectors:
    ids = ids or [f"u{row:05d}" for row in range(len(vectors))]
    return BehaviorVectors(pl.Series(ids), np.asarray(vectors, np.float32), encoder_id, AS_OF)


@pytest.fixture(params=["exact", "milvus"])
def index(request, tmp_path: Path):
    made = ExactIndex() if request.param == "exact" else MilvusIndex(tmp_path / "milvus.db")
    yield made
    made.close()


def match(vectors: BehaviorVectors, pool: ReasoningPool, index, **options) -> pl.DataFrame:
    install(pool, index, "reland")
    return match_users(vectors, pool, index, prefix="reland", **options)


def test_a_user_gets_the_seed_of_the_highest_cosine(index) -> None:
    pool = pool_of(["s1", "s2", "s3"], [[1, 0], [0, 10], [-1, 0]])
    result = match(users_of([[3, 4], [4, 3], [-2, 0.1]]), pool, index)
    assert result.schema == MATCHES.polars_schema()
    assert result["seed_user_id"].to_list() == ["s2", "s1", "s3"]
    assert result["rank"].to_list() == [1, 1, 1]
    np.testing.assert_allclose(result["similarity"], [0.8, 0.8, 2 / np.hypot(2, 0.1)], rtol=1e-6)


def test_rows_in_equal_rows_out_in_order_and_users_without_behaviour_have_no_match(index) -> None:
    pool = pool_of(["s1", "s2"], [[1, 0], [0, 1]])
    vectors = users_of([[1, 0], [np.nan, 1], [0, 0], [0, 2], [np.inf, 1]], ["e", "d", "c", "b", "a"])
    asked = pl.Series(["b", "never seen", "a", "e", "c", "d", "b"])
    result = match(vectors, pool, index, users=asked)
    assert result["user_id"].to_list() == asked.to_list()
    assert result["seed_user_id"].to_list() == ["s2", None, None, "s1", None, None, "s2"]
    assert result["similarity"].to_list() == [1.0, None, None, 1.0, None, None, 1.0]
    assert result["rank"].to_list() == [1] * 7


def test_no_user_with_behaviour_at_all(index) -> None:
    result = match(users_of([[1, 0]]), pool_of(["s"], [[1, 0]]), index, users=pl.Series(["x", "y"]))
    assert result["seed_user_id"].to_list() == [None, None]
    assert match(users_of([[1, 0]]), pool_of(["s"], [[1, 0]]), index, users=pl.Series([], dtype=pl.String)).height == 0


def test_a_pool_of_one_seed(index) -> None:
    assert match(users_of([[1, 0], [-1, 0]]), pool_of(["s"], [[2, 0]]), index)["similarity"].to_list() == [1, -1]


def test_every_seed_is_its_own_match(index) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    ids = [f"s{row:03d}" for row in range(500)]
    result = match(users_of(vectors, ids), pool_of(ids, vectors), index)
    assert result["seed_user_id"].to_list() == ids
    assert result["similarity"].to_list() == [1.0] * 500


def test_equal_seeds_are_told_apart_by_the_lowest_id(index) -> None:
    # 40 seeds of five directions at different lengths: more equal ones than any k would return
    directions = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 2, 3], [3, 2, 1]], np.float32)
    lengths = np.random.default_rng(0).uniform(0.1, 9, size=(40, 1)).astype(np.float32)
    ids = [f"s{row:02d}" for row in np.random.default_rng(1).permutation(40)]
    pool = pool_of(ids, directions[np.arange(40) % 5] * lengths)
    lowest = [min(ids[d::5]) for d in range(5)]
    assert match(users_of(directions), pool, index)["seed_user_id"].to_list() == lowest
    # (1, 1, 1) is equally far from the first three directions
    assert match(users_of([[1, 1, 1]]), pool_of(["z", "y", "x"], directions[:3]), index)["seed_user_id"].item() == "x"


def test_the_batch_size_does_not_matter_and_progress_ends_at_the_total(index) -> None:
    generator = np.random.default_rng(0)
    pool = pool_of([f"s{row}" for row in range(50)], generator.normal(size=(50, 8)))
    vectors, seen = users_of(generator.normal(size=(101, 8))), []
    whole = match(vectors, pool, index)
    parts = match(vectors, pool, index, batch_size=10, on_progress=lambda done, total: seen.append((done, total)))
    assert whole.equals(parts)
    assert seen[-1] == (101, 101)
    assert len(seen) == 11


def test_milvus_equals_the_exact_index_bit_by_bit(tmp_path) -> None:
    generator = np.random.default_rng(0)
    seeds = generator.normal(size=(600, 64)).astype(np.float32)
    seeds[300:330] = seeds[:30] * 3  # and some equal directions
    pool = pool_of([f"s{row:04d}" for row in generator.permutation(600)], seeds)
    vectors = users_of(np.concatenate([generator.normal(size=(2500, 64)), seeds]))
    milvus = MilvusIndex(tmp_path / "milvus.db")
    try:
        found = match(vectors, pool, milvus)
    finally:
        milvus.close()
    exact = match(vectors, pool, ExactIndex())
    assert found.equals(exact)
    unit = vectors.vectors.astype(float) / np.linalg.norm(vectors.vectors.astype(float), axis=1, keepdims=True)
    poolwide = pool.vectors.astype(float) / np.linalg.norm(pool.vectors.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(exact["similarity"], (unit @ poolwide.T).max(axis=1), atol=1e-6)


def test_hnsw_finds_nearly_every_users_seed(tmp_path) -> None:
    generator = np.random.default_rng(0)
    pool = pool_of([f"s{row:04d}" for row in range(3000)], generator.normal(size=(3000, 32)))
    vectors = users_of(pool.vectors[generator.integers(0, 3000, 2000)] + 0.5 * generator.normal(size=(2000, 32)))
    milvus = MilvusIndex(tmp_path / "milvus.db", index="HNSW")
    try:
        found = match(vectors, pool, milvus)
    finally:
        milvus.close()
    exact = match(vectors, pool, ExactIndex())
    assert (found["seed_user_id"] == exact["seed_user_id"]).mean() > 0.98


@pytest.mark.parametrize("vectors", [users_of([[1, 0]], encoder_id="other"), users_of([[1, 0, 0]])])
def test_vectors_of_another_encoder_are_refused(vectors) -> None:
    with pytest.raises(EncoderMismatchError) as error:
        match(vectors, pool_of(["s"], [[1, 0]]), ExactIndex())
    assert error.value.expected == "toy, 2 wide"


@pytest.mark.parametrize(("seeds", "k"), [(100, 20), (100, 40), (200, 50), (60, 60)])
def test_every_user_gets_k_seeds_from_an_index_that_looks_at_fewer(tmp_path, seeds, k) -> None:
    """IVF_FLAT looks into some of its cells, whatever k is: the rows that come back short are answered exactly."""
    generator = np.random.default_rng(0)
    pool = pool_of([f"s{row:03d}" for row in range(seeds)], generator.normal(size=(seeds, 16)))
    vectors = users_of(generator.normal(size=(300, 16)))
    milvus = MilvusIndex(tmp_path / "milvus.db", index="IVF_FLAT")
    try:
        found = match(vectors, pool, milvus, k=k)
        ids, _ = milvus.search("reland_v1", vectors.vectors, k)
    finally:
        milvus.close()
    short = vectors.user_ids.filter(pl.Series([None in row for row in ids.tolist()]))
    assert short.len() > 0
    assert found["user_id"].to_list() == [user for user in vectors.user_ids for _ in range(k)]
    assert found["rank"].to_list() == [*range(1, k + 1)] * 300
    assert found.group_by("user_id").agg(pl.col("seed_user_id").n_unique())["seed_user_id"].to_list() == [k] * 300
    exact = match(vectors, pool, ExactIndex(), k=k)
    assert found.filter(pl.col("user_id").is_in(short)).equals(exact.filter(pl.col("user_id").is_in(short)))


def test_a_collection_of_other_seeds_is_noticed() -> None:
    index = ExactIndex()
    index.build("reland_v1", pl.Series(["stranger"]), np.ones((1, 2), np.float32))
    with pytest.raises(PoolError, match="does not hold this pool"):
        match_users(users_of([[1, 0]]), pool_of(["s"], [[1, 0]]), index, prefix="reland")
