from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features import pool as pools
from reland_features.columns import POOL, RATIONALES, SEED_USERS
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import PoolError
from reland_features.index import ExactIndex, MilvusIndex

AS_OF = datetime(2024, 5, 1, 12)
IDS = {"prompt_id": "movies-1", "engine_id": "dummy", "text_encoder_id": "mini"}

KILLED_AFTER_A_STEP = """
import os, signal, sys
from pathlib import Path
from pymilvus import MilvusClient
from reland_features import index, pool
pools = pool.ReasoningPool.read(Path(sys.argv[1]))
step = getattr(MilvusClient, sys.argv[4])
setattr(MilvusClient, sys.argv[4], lambda self, name, *a, **k: (
    step(self, name, *a, **k), name == sys.argv[5] and os.kill(os.getpid(), signal.SIGKILL)))
pool.install(pools, index.MilvusIndex(sys.argv[2], index=sys.argv[3]), "reland")
"""


def rationale(seed: str, status: str = "ok") -> dict[str, object]:
    ok = status == "ok"
    return {
        "seed_user_id": seed,
        "status": status,
        "summary": f"{seed} likes films" if ok else None,
        "categories": ["Drama", "Comedy"] if ok else None,
        "items": [f"Film of {seed}"] if ok else None,
        "text": "...",
        "reason": None if ok else "no answer",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "ledger_key": f"key-{seed}",
    }


def parts(seeds: list[str], failed: tuple[str, ...] = (), width: int = 6):
    """Rationales, seed users, vectors of seeds and others, and embeddings of the ok rationales."""
    generator = np.random.default_rng(0)
    written = [rationale(seed, "failed" if seed in failed else "ok") for seed in seeds]
    rationales = pl.DataFrame(written, schema=RATIONALES.polars_schema())
    frame = pl.DataFrame(
        {"user_id": seeds, "cluster_id": range(len(seeds)), "drawn_by": ["important"] * len(seeds)},
        schema=SEED_USERS.polars_schema(),
    )
    users = pl.Series(["another", *seeds])
    vectors = BehaviorVectors(users, generator.normal(size=(len(users), 4)).astype(np.float32), "toy", AS_OF)
    embeddings = generator.normal(size=(len(seeds) - len(failed), width)).astype(np.float32)
    return rationales, frame, vectors, embeddings


def pool_of(seeds: list[str], failed: tuple[str, ...] = (), components: int = 3, version: str | None = None):
    return pools.build_pool(*parts(seeds, failed), components=components, ids=IDS, pool_version=version)


def test_every_usable_rationale_stands_beside_its_seeds_vector_cluster_and_embedding() -> None:
    rationales, seeds, vectors, embeddings = parts(["c", "a", "d", "b"], failed=("d",))
    pool = pools.build_pool(rationales, seeds, vectors, embeddings, components=2, ids=IDS)
    assert pool.frame.schema == POOL.polars_schema()
    assert pool.frame["seed_user_id"].to_list() == ["a", "b", "c"]
    assert pool.frame["cluster_id"].to_list() == [1, 3, 0]
    assert pool.frame["summary"].to_list() == ["a likes films", "b likes films", "c likes films"]
    np.testing.assert_array_equal(pool.vectors, vectors.vectors[[2, 4, 1]])
    np.testing.assert_array_equal(pool.embeddings, embeddings[[1, 2, 0]])
    assert (pool.encoder_id, pool.ids, pool.as_of) == ("toy", IDS, AS_OF)


def test_components_are_the_principal_ones_padded_with_zeros() -> None:
    embeddings = np.array([[3, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32)
    result = pools.principal_components(embeddings, 5)
    np.testing.assert_allclose(np.abs(result[:, :2]), [[3, 0], [3, 0], [0, 1], [0, 1]], atol=1e-6)
    assert not result[:, 3:].any()
    assert result.shape == (4, 5)
    np.testing.assert_array_equal(result, pools.principal_components(embeddings, 5))


def test_one_rationale_or_equal_ones_have_components_zero() -> None:
    assert not pools.principal_components(np.ones((1, 4), np.float32), 3).any()
    assert not pools.principal_components(np.ones((5, 4), np.float32), 3).any()


def test_a_pool_that_is_read_equals_the_one_that_was_written(tmp_path) -> None:
    pool = pool_of(["a", "b", "c"])
    pool.write(tmp_path)
    again = pools.ReasoningPool.read(tmp_path)
    assert again.frame.equals(pool.frame)
    assert again.frame.schema == pool.frame.schema
    assert again.manifest == pool.manifest


def test_the_version_changes_with_what_went_in_and_only_then() -> None:
    assert pool_of(["a", "b"]).pool_version == pool_of(["a", "b"]).pool_version
    assert pool_of(["a", "b"]).pool_version != pool_of(["a", "c"]).pool_version
    assert pool_of(["a", "b"]).pool_version != pool_of(["a", "b"], components=4).pool_version
    assert pool_of(["a", "b"], version="v7").pool_version == "v7"


def test_a_pool_without_usable_rationales_is_an_error() -> None:
    with pytest.raises(PoolError, match="no seed user has a usable rationale") as error:
        pool_of(["a", "b"], failed=("a", "b"))
    assert error.value.got == "2 rationales, none ok"


def test_embeddings_of_other_rationales_are_refused() -> None:
    rationales, seeds, vectors, embeddings = parts(["a", "b", "c"], failed=("b",))
    one_too_many = np.ones((3, 6), np.float32)
    with_nan = np.where(np.arange(6) == 2, np.nan, embeddings)
    for wrong in (one_too_many, with_nan):
        with pytest.raises(PoolError, match="embeddings"):
            pools.build_pool(rationales, seeds, vectors, wrong, components=2, ids=IDS)


def test_a_seed_without_vector_or_cluster_is_named() -> None:
    rationales, seeds, vectors, embeddings = parts(["a", "b"])
    with pytest.raises(PoolError, match="incomplete") as error:
        pools.build_pool(rationales, seeds.head(1), vectors, embeddings, components=2, ids=IDS)
    assert "'cluster_id': 1" in error.value.got
    assert "['b']" in error.value.got
    fewer = BehaviorVectors(vectors.user_ids[:2], vectors.vectors[:2], "toy", AS_OF)
    with pytest.raises(PoolError, match="incomplete"):
        pools.build_pool(rationales, seeds, fewer, embeddings, components=2, ids=IDS)


def test_a_folder_without_pool_or_with_other_rows_is_an_error(tmp_path) -> None:
    with pytest.raises(PoolError, match="there is no reasoning pool"):
        pools.ReasoningPool.read(tmp_path)
    pool_of(["a", "b", "c"]).write(tmp_path)
    pool_of(["a", "b"]).frame.write_parquet(tmp_path / pools.TABLE)
    with pytest.raises(PoolError, match="not what its manifest says"):
        pools.ReasoningPool.read(tmp_path)


@pytest.fixture(params=["exact", "milvus"])
def index(request, tmp_path: Path):
    made = ExactIndex() if request.param == "exact" else MilvusIndex(tmp_path / "milvus.db")
    yield made
    made.close()


def test_installing_twice_loads_once(index, monkeypatch) -> None:
    pool = pool_of(["a", "b", "c"], version="2024-05.1")
    built = []
    build = type(index).build
    monkeypatch.setattr(type(index), "build", lambda self, *rest: (built.append(rest[0]), build(self, *rest)))
    assert pools.install(pool, index, "reland") == "reland_2024_05_1"
    pools.install(pool, index, "reland")
    assert built == ["reland_2024_05_1"]
    assert index.size("reland_2024_05_1") == 3


def test_a_collection_with_other_rows_is_loaded_again(index) -> None:
    pool = pool_of(["a", "b", "c"], version="v1")
    index.build("reland_v1", pool.frame["seed_user_id"][:2], pool.vectors[:2])
    index.set_alias("reland_live", "reland_v1")
    pools.install(pool, index, "reland")
    assert index.size("reland_live") == 3


def test_a_collection_of_the_same_seeds_with_other_vectors_is_loaded_again(index) -> None:
    pool = pool_of(["a", "b", "c"], version="v1")
    index.build("reland_v1", pool.frame["seed_user_id"], pool.vectors[::-1])
    index.set_alias("reland_live", "reland_v1")
    pools.install(pool, index, "reland")
    found, _ = index.search("reland_live", pool.vectors, 1)
    assert found[:, 0].tolist() == ["a", "b", "c"]


def test_another_index_type_is_built_anew_and_stays_live(tmp_path) -> None:
    pool = pool_of([f"s{n:03d}" for n in range(50)], version="v1")
    for kind in ("IVF_FLAT", "FLAT"):
        index = MilvusIndex(tmp_path / "milvus.db", index=kind)
        try:
            pools.install(pool, index, "reland")
            pools.promote("v1", index, "reland")
            assert index._client.describe_index("reland_v1", "vector")["index_type"] == kind
            assert index.alias("reland_live") == "reland_v1"
            assert index._client.list_collections() == ["reland_v1"]
        finally:
            index.close()


def test_promote_and_rollback_move_the_live_alias(index) -> None:
    first, second = pool_of(["a"], version="v1"), pool_of(["a", "b"], version="v2")
    with pytest.raises(PoolError, match="not installed"):
        pools.promote("v1", index, "reland")
    for pool in (first, second):
        pools.install(pool, index, "reland")
    pools.promote("v1", index, "reland")
    with pytest.raises(PoolError, match="no earlier pool"):
        pools.rollback(index, "reland")
    pools.promote("v2", index, "reland")
    pools.promote("v2", index, "reland")
    assert index.alias("reland_live") == "reland_v2"
    assert pools.rollback(index, "reland") == "reland_v1"
    assert index.alias("reland_live") == "reland_v1"
    assert pools.rollback(index, "reland") == "reland_v2"


def test_prefixes_do_not_touch_each_other(index) -> None:
    for prefix in ("one", "two"):
        pools.install(pool_of(["a"], version="v1"), index, prefix)
        pools.promote("v1", index, prefix)
    assert (index.alias("one_live"), index.alias("two_live")) == ("one_v1", "two_v1")


def killed_after(step: str, collection: str, pool: pools.ReasoningPool, folder: Path, uri: str, kind: str) -> None:
    """Install a pool in a process that kills itself after a call of the Milvus client about a collection."""
    folder.mkdir()
    pool.write(folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
    arguments = [str(folder), uri, kind, step, collection]
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_A_STEP, *arguments], env=environment)
    assert killed.returncode == -signal.SIGKILL


def test_a_kill_while_loading_leaves_no_collection_and_the_next_run_loads_it(tmp_path) -> None:
    pool = pool_of([f"s{n:03d}" for n in range(100)], version="v1")
    uri = str(tmp_path / "milvus.db")
    killed_after("flush", "reland_v1__loading", pool, tmp_path / "pool", uri, "FLAT")
    index = MilvusIndex(uri)
    try:
        assert index.size("reland_v1") is None
        pools.install(pool, index, "reland")
        assert index.size("reland_v1") == 100
        assert index.search("reland_v1", pool.vectors, 1)[0][:, 0].tolist() == pool.frame["seed_user_id"].to_list()
    finally:
        index.close()


@pytest.mark.parametrize(
    ("step", "collection"), [("alter_alias", "reland_v1__loading"), ("drop_collection", "reland_v1")]
)
def test_a_kill_while_a_live_collection_is_replaced_loses_no_alias(tmp_path, step, collection) -> None:
    older, pool = pool_of(["a"], version="v0"), pool_of([f"s{n:03d}" for n in range(100)], version="v1")
    uri = str(tmp_path / "milvus.db")
    index = MilvusIndex(uri, index="IVF_FLAT")
    for one in (older, pool):
        pools.install(one, index, "reland")
        pools.promote(one.pool_version, index, "reland")
    index.close()
    killed_after(step, collection, pool, tmp_path / "pool", uri, "FLAT")
    index = MilvusIndex(uri)
    try:
        assert index.size("reland_live") == 100  # whoever asks for the live pool in between gets all of it
        pools.install(pool, index, "reland")
        pools.promote("v1", index, "reland")
        assert index.alias("reland_live") == "reland_v1"
        assert index.size("reland_live") == 100
        assert sorted(index._client.list_collections()) == ["reland_v0", "reland_v1"]
        assert pools.rollback(index, "reland") == "reland_v0"
    finally:
        index.close()
