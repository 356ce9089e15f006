"""The repository as a user meets it: stock Feast in front, published parquet behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest
from toy_project import AS_OF, REPOSITORY, make_toy

from reland_features.columns import FEATURE_TABLES
from reland_features.errors import FeatureStoreError
from reland_features.feast import check_freshness, materialize, open_store
from reland_features.publishing import published_run

pytestmark = pytest.mark.filterwarnings("ignore")
SERVICES = ("ranker_baseline", "ranker_with_rationales")
USERS = [f"u{n}" for n in (*range(100), 108, 109)]


def rows(users: list[str], items: list[str], at: datetime = AS_OF) -> pd.DataFrame:
    pairs = [(user, item) for user in users for item in items]
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    frame["event_timestamp"] = pd.Timestamp(at)
    frame["row"] = range(len(frame))
    return frame


def offline(store, frame: pd.DataFrame, features) -> pd.DataFrame:
    joined = store.get_historical_features(frame, features, full_feature_names=True).to_df()
    return joined.sort_values("row").reset_index(drop=True)


def online(store, frame: pd.DataFrame, features) -> dict:
    keys = frame[["user_id", "item_id"]].to_dict("records")
    return store.get_online_features(features, keys, full_feature_names=True).to_dict()


def assert_equal_features(left: pd.DataFrame, right: dict, names: list[str]) -> None:
    for name in names:
        for row, (a, b) in enumerate(zip(left[name], right[name], strict=True)):
            where = f"{name}, row {row}: {a!r} offline, {b!r} online"
            if isinstance(a, np.ndarray | list):
                if len(a) and not isinstance(a[0], str):
                    np.testing.assert_allclose(a, b, atol=1e-6, err_msg=where)
                else:
                    assert list(a) == list(b), where
            elif a is None or a is pd.NaT or a != a:
                assert b is None, where
            elif isinstance(a, str):
                assert a == b, where
            elif isinstance(a, pd.Timestamp):
                assert a.tz_localize("UTC") == pd.Timestamp(b), where
            else:
                assert a == pytest.approx(b, abs=1e-6), where


@pytest.mark.parametrize("service", SERVICES)
def test_offline_equals_online_for_100_users_and_strangers(applied, service):
    store = applied.store()
    frame = rows([*USERS, "stranger"], ["i0", "i1", "i7", "no-such-item"])
    definition = store.get_feature_service(service)
    answer = online(store, frame, definition)
    names = [name for name in answer if "__" in name]
    assert len(names) == {"ranker_baseline": 4, "ranker_with_rationales": 9}[service]
    assert_equal_features(offline(store, frame, definition), answer, names)


@pytest.mark.parametrize("table", [t for t in FEATURE_TABLES if t.key != ("seed_user_id",)], ids=lambda t: t.name)
def test_every_column_of_a_view_is_the_same_offline_online_and_published(applied, table):
    store = applied.store()
    features = [
        f"{table.name}:{n}" for n in table.names if n not in (*table.key, "event_timestamp", "created_timestamp")
    ]
    published = pl.read_parquet(applied.root / "features" / table.name / "run-1.parquet")
    keys = published[table.key[0]].to_list()
    frame = pd.DataFrame({table.key[0]: keys, "event_timestamp": pd.Timestamp(AS_OF), "row": range(len(keys))})
    answer = store.get_online_features(features, [{table.key[0]: key} for key in keys]).to_dict()
    names = [feature.split(":")[1] for feature in features]
    joined = store.get_historical_features(frame, features).to_df().sort_values("row")
    assert_equal_features(joined, answer, names)
    assert_equal_features(published.to_pandas(), answer, names)


def test_a_stranger_gets_nulls_and_the_mask(applied):
    store = applied.store()
    answer = online(store, rows(["stranger", "u109", "u108"], ["i1"]), store.get_feature_service(SERVICES[1]))
    assert answer["user_rationale__similarity"] == [None] * 3
    assert answer["user_rationale__rationale_components"] == [None] * 3
    assert answer["rationale_item_cross__has_rationale"] == [0] * 3
    assert answer["rationale_item_cross__rationale_item_cosine"] == [0.0] * 3
    assert answer["user_activity__interaction_count"][:2] == [None, 0]
    assert answer["user_item_affinity__category_affinity"][:2] == [0.0, 0.0]
    assert answer["user_item_affinity__category_affinity"][2] > 0, "no rationale, but a history"


def test_rows_that_share_user_and_time_all_come_back(applied):
    store = applied.store()
    frame = pd.concat([rows(["u3"], ["i1"])] * 500 + [rows(["u3"], ["i2"])] * 500, ignore_index=True)
    frame["row"] = range(len(frame))
    joined = offline(store, frame, store.get_feature_service("ranker_with_rationales"))
    assert joined["row"].tolist() == list(range(1000))
    assert joined["item_id"].tolist() == ["i1"] * 500 + ["i2"] * 500
    assert joined["user_rationale__similarity"].nunique(dropna=False) == 1


def test_compact_and_wide_layout_give_the_same_vectors_online_and_offline(applied):
    store = applied.store()
    wide = store.get_online_features(
        ["user_rationale:rationale_embedding", "user_rationale:summary"], [{"user_id": u} for u in USERS]
    ).to_dict()
    match = store.get_online_features(
        ["user_seed_match:seed_user_id", "user_seed_match:similarity"], [{"user_id": u} for u in USERS]
    ).to_dict()
    seeds = [seed if seed is not None else "none" for seed in match["seed_user_id"]]
    compact = store.get_online_features(
        ["seed_rationale:rationale_embedding", "seed_rationale:summary"], [{"seed_user_id": s} for s in seeds]
    ).to_dict()
    assert compact["rationale_embedding"] == wide["rationale_embedding"]
    assert compact["summary"] == wide["summary"]
    assert wide["rationale_embedding"][-2:] == [None, None]
    assert None not in wide["rationale_embedding"][:100]
    frame = pd.DataFrame(
        {"user_id": USERS, "seed_user_id": seeds, "event_timestamp": pd.Timestamp(AS_OF), "row": range(len(USERS))}
    )
    features = ["user_rationale:rationale_embedding", "seed_rationale:rationale_embedding"]
    joined = offline(store, frame, features)
    for a, b in zip(
        joined["user_rationale__rationale_embedding"], joined["seed_rationale__rationale_embedding"], strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_features_do_not_exist_before_their_time_nor_after_their_ttl(applied):
    store = applied.store()
    frame = pd.concat(
        [rows(["u3"], ["i1"], at) for at in (AS_OF - timedelta(seconds=1), AS_OF, AS_OF + timedelta(days=181))]
    )
    frame["row"] = range(3)
    seen = offline(store, frame, store.get_feature_service("ranker_with_rationales"))["user_rationale__similarity"]
    assert seen.notna().tolist() == [False, True, False]


def test_stock_command_line(moved, feast):
    with pytest.raises(FeatureStoreError, match="online store"):
        check_freshness(moved.repository, moved.features)
    feast(moved.root, "-c", "feature_repo", "materialize", "2024-02-01T00:00:00", "2024-04-01T00:00:00")
    counts = dict(zip((t.name for t in FEATURE_TABLES), (100, 100, 6, 100, 40), strict=True))
    assert check_freshness(moved.repository, moved.features) == counts


def test_a_newer_run_is_stale_until_materialized_and_an_older_pool_can_come_back(applied, moved):
    created = {}
    for version, toy in (("pool-2", make_toy(users=110, seed=5)), ("pool-1", applied.toy)):
        run_id, created[version] = moved.publish(toy, version)
        assert published_run(moved.features).run_id == run_id
        with pytest.raises(FeatureStoreError, match="does not hold the published features"):
            check_freshness(moved.repository, moved.features)
        counts = materialize(moved.repository, moved.features)
        assert counts == dict(zip((t.name for t in FEATURE_TABLES), (110, 110, 6, 110, 40), strict=True))
        online = open_store(moved.repository).get_online_features(["user_rationale:pool_version"], [{"user_id": "u1"}])
        assert online.to_dict()["pool_version"] == [version]
    day = created["pool-2"] + timedelta(hours=12)
    at = pd.DataFrame({"user_id": ["u1"], "event_timestamp": [pd.Timestamp(day)]})
    served = open_store(moved.repository).get_historical_features(
        at, ["user_rationale:pool_version"], filter_by_created_timestamp=True
    )
    assert served.to_df()["pool_version"].tolist() == ["pool-2"], "what would have been served that day"


def test_an_empty_online_store_is_found_out(applied, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(applied.root, root)
    (root / "feature_repo" / "data" / "online_store.db").unlink()
    with pytest.raises(FeatureStoreError):
        check_freshness(root / "feature_repo", root / "features")


@pytest.mark.slow
def test_the_workflow_script_runs(moved):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY.parent)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "test_workflow.py"], cwd=moved.repository, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<- seed" in done.stdout
    assert "rationale_item_cross__has_rationale  :  [1, 1, 0]" in done.stdout


@pytest.mark.slow
def test_the_stock_feature_server_answers(moved):
    materialize(moved.repository, moved.features)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("feast"), "-c", str(moved.repository), "serve", "-p", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY.parent)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            time.sleep(0.1)
        body = {
            "feature_service": "ranker_with_rationales",
            "entities": {"user_id": ["u3", "stranger"], "item_id": ["i1", "i1"]},
            "full_feature_names": True,
        }
        answer = httpx.post(f"http://127.0.0.1:{port}/get-online-features", json=body, timeout=60).json()
    finally:
        server.terminate()
        server.wait()
    served = dict(zip(answer["metadata"]["feature_names"], (r["values"] for r in answer["results"]), strict=True))
    keys = [{"user_id": user, "item_id": "i1"} for user in ("u3", "stranger")]
    store = open_store(moved.repository)
    service = store.get_feature_service("ranker_with_rationales")
    expected = store.get_online_features(service, keys, full_feature_names=True).to_dict()
    name = "rationale_item_cross__rationale_item_cosine"
    assert served[name] == pytest.approx(expected[name], abs=1e-6)
    assert served[name][1] == 0
    assert served["user_rationale__similarity"][1] is None
