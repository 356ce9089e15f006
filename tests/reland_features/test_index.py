from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features.errors import PoolError, PoolInUseError
from reland_features.index import ExactIndex, MilvusIndex, check_free

HOLD = """
import sys
from reland_features.index import MilvusIndex
index = MilvusIndex(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
index.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def rows(count: int, width: int = 16, seed: int = 0) -> tuple[pl.Series, np.ndarray]:
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return pl.Series([f"s{row:05d}" for row in range(count)]), vectors


def cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm
    return queries @ vectors.T / norm(queries, axis=1)[:, None] / norm(vectors, axis=1)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "pool" / "milvus.db")


@pytest.fixture(params=["exact", "milvus"])
def index(request, uri):
    made = ExactIndex() if request.param == "exact" else MilvusIndex(uri)
    yield made
    made.close()


def test_the_most_similar_rows_come_first_with_their_cosine(index) -> None:
    ids, vectors = rows(500)
    _, queries = rows(300, seed=1)
    index.build("seeds", ids, vectors * 7)
    found, similarity = index.search("seeds", queries, 3)
    expected = cosines(queries, vectors)
    order = np.argsort(-expected, axis=1)[:, :3]
    assert found.tolist() == ids.to_numpy()[order].tolist()
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, np.take_along_axis(expected, order, axis=1), atol=1e-5)


def test_fewer_rows_than_k_leave_none(index) -> None:
    index.build("seeds", pl.Series(["only"]), np.ones((1, 4), np.float32))
    found, similarity = index.search("seeds", np.ones((2, 4), np.float32), 3)
    assert found.tolist() == [["only", None, None]] * 2
    np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-6)
    assert (similarity[:, 1:] == -np.inf).all()


def test_ids_of_any_length_and_alphabet_come_back(index) -> None:
    ids = pl.Series(["a" * 300, "Zoë 用户 'quoted\"", "-", "00012"])
    index.build("seeds", ids, np.eye(4, dtype=np.float32))
    assert index.search("seeds", np.eye(4, dtype=np.float32), 1)[0][:, 0].tolist() == ids.to_list()


def test_building_again_replaces_the_rows_and_keeps_aliases(index) -> None:
    index.build("seeds", *rows(10))
    index.set_alias("live", "seeds")
    index.build("seeds", *rows(25))
    assert index.size("seeds") == index.size("live") == 25
    assert index.alias("live") == "seeds"


def test_a_collection_holds_the_rows_it_was_built_from_and_no_others(index) -> None:
    ids, vectors = rows(10)
    assert not index.holds("seeds", ids, vectors)
    index.build("seeds", ids, vectors)
    assert index.holds("seeds", ids, vectors)
    assert not index.holds("seeds", ids, rows(10, seed=1)[1])
    assert not index.holds("seeds", ids.reverse(), vectors)
    assert not index.holds("seeds", ids[:9], vectors[:9])
    index.build("seeds", ids, rows(10, seed=1)[1])
    assert not index.holds("seeds", ids, vectors)


def test_aliases_move_and_searches_follow(index) -> None:
    index.build("one", pl.Series(["a"]), np.ones((1, 2), np.float32))
    index.build("two", pl.Series(["b"]), np.ones((1, 2), np.float32))
    query = np.ones((1, 2), np.float32)
    assert index.alias("live") is None
    index.set_alias("live", "one")
    assert index.search("live", query, 1)[0].item() == "a"
    index.set_alias("live", "two")
    assert index.alias("live") == "two"
    assert index.search("live", query, 1)[0].item() == "b"
    with pytest.raises(PoolError, match="no such collection"):
        index.set_alias("live", "three")


def test_a_collection_with_an_alias_is_not_dropped(index) -> None:
    index.build("one", *rows(3))
    index.build("two", *rows(3))
    index.set_alias("live", "one")
    with pytest.raises(PoolError, match="not dropped"):
        index.drop("one")
    index.set_alias("live", "two")
    index.drop("one")
    assert index.size("one") is None
    assert index.alias("live") == "two"
    index.drop("one")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_rows_and_queries_without_direction_are_refused(index, value) -> None:
    ids, vectors = rows(3)
    index.build("seeds", ids, vectors)
    broken = vectors.copy()
    broken[1] = value
    with pytest.raises(PoolError, match="without a direction") as error:
        index.search("seeds", broken, 1)
    assert "row 1" in error.value.got
    with pytest.raises(PoolError, match="without a direction"):
        index.build("other", ids, broken)
    assert index.size("other") is None


def test_what_is_too_large_or_missing_is_said_before_milvus_is_asked(index) -> None:
    index.build("seeds", *rows(3, 2))
    with pytest.raises(PoolError, match="too large or empty"):
        index.search("seeds", np.ones((16_385, 2), np.float32), 1)
    with pytest.raises(PoolError, match="too large or empty"):
        index.search("seeds", np.ones((1, 2), np.float32), 0)
    with pytest.raises(PoolError, match="no such collection"):
        index.search("other", np.ones((1, 2), np.float32), 1)
    with pytest.raises(PoolError, match="cannot be indexed"):
        index.build("twice", pl.Series(["a", "a"]), np.ones((2, 2), np.float32))


def test_collections_and_aliases_are_there_after_a_restart(uri) -> None:
    ids, vectors = rows(9000, 8)
    index = MilvusIndex(uri)
    index.build("seeds", ids, vectors)
    index.set_alias("live", "seeds")
    before = index.search("live", vectors[:50], 2)
    index.close()
    again = MilvusIndex(uri)
    try:
        assert again.size("seeds") == 9000
        assert again.alias("live") == "seeds"
        assert again.holds("seeds", ids, vectors)
        after = again.search("live", vectors[:50], 2)
        assert before[0].tolist() == after[0].tolist()
        np.testing.assert_array_equal(before[1], after[1])
    finally:
        again.close()


def test_a_collection_of_another_index_type_is_not_what_is_configured(uri) -> None:
    ids, vectors = rows(30)
    approximate, exact = MilvusIndex(uri, index="IVF_FLAT"), MilvusIndex(uri)
    try:
        approximate.build("seeds", ids, vectors)
        assert approximate.holds("seeds", ids, vectors)
        assert not exact.holds("seeds", ids, vectors)
    finally:
        approximate.close()
        exact.close()


def test_a_collection_that_does_not_say_what_it_holds_is_not_trusted(uri) -> None:
    """Those of earlier releases do not: they are built once more."""
    index = MilvusIndex(uri)
    try:
        index.build("seeds", *rows(30))
        properties = index._client.describe_collection("seeds")["properties"]
        index._client.alter_collection_properties("seeds", dict.fromkeys(properties, ""))
        assert not index.holds("seeds", *rows(30))
    finally:
        index.close()


@pytest.mark.parametrize("kind", ["HNSW", "IVF_FLAT", "AUTOINDEX"])
def test_approximate_indexes_find_nearly_every_nearest_row(uri, kind) -> None:
    ids, vectors = rows(3000)
    generator = np.random.default_rng(1)
    queries = vectors[generator.integers(0, 3000, 1000)] + 0.5 * generator.normal(size=(1000, 16)).astype(np.float32)
    index = MilvusIndex(uri, index=kind)
    try:
        index.build("seeds", ids, vectors)
        found, _ = index.search("seeds", queries, 1)
    finally:
        index.close()
    expected = ids.to_numpy()[cosines(queries, vectors).argmax(axis=1)]
    assert (found[:, 0] == expected).mean() > (0.97 if kind == "HNSW" else 0.9)


def test_two_indexes_of_one_process_share_a_file_until_both_are_closed(uri) -> None:
    first, second = MilvusIndex(uri), MilvusIndex(uri)
    first.build("seeds", *rows(5))
    first.close()
    first.close()
    assert second.size("seeds") == 5
    second.close()
    check_free(uri)


def test_a_file_open_in_another_process_is_refused_at_once_and_free_after_close(uri) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        with pytest.raises(PoolInUseError, match="open in another process") as error:
            MilvusIndex(uri)
        assert error.value.where == uri
        with pytest.raises(PoolInUseError):
            check_free(uri)
        process.stdin.write("\n")
        process.stdin.flush()
        # the other process lives on: closing the index was enough
        assert process.stdout.readline() == "closed\n"
        assert process.poll() is None
        MilvusIndex(uri).close()
    finally:
        process.kill()
        process.wait()


def test_a_file_held_by_a_killed_process_is_free(uri) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    process.kill()
    process.wait()
    MilvusIndex(uri).close()


def test_a_path_that_milvus_lite_would_not_take_is_refused(tmp_path) -> None:
    with pytest.raises(PoolError, match="neither") as error:
        MilvusIndex(tmp_path / "pool.milvus")
    assert error.value.hint == "--set pool.uri=pool/milvus.db"
