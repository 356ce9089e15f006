"""Control of the pool as a user meets it: commands, real dbt, real Feast, and a kill between decision and publish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from reland_features.demo.simulator import simulate, write_world
from reland_features.init import make_project
from reland_features.sources import discover_columns

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
RELAND = [sys.executable, "-m", "reland_features"]
SETTINGS = ["--set", "rationales.engine=dummy", "--set", "evaluation.command=[]"]
FEATURES = [
    *(f"user_rationale:{name}" for name in ("rationale_embedding", "rationale_components", "seed_user_id", "summary")),
    "user_seed_match:seed_user_id",
    "user_seed_match:similarity",
]


def reland(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*RELAND, *arguments, "--project", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def online(folder: Path, users: list[str]) -> dict[str, dict[str, object]]:
    from feast import FeatureStore

    store = FeatureStore(str(folder / "feature_repo"))
    answer = store.get_online_features(FEATURES, [{"user_id": u} for u in users], full_feature_names=True).to_dict()
    return {user: {name: answer[name][row] for name in answer if name != "user_id"} for row, user in enumerate(users)}


def seed_online(folder: Path, seed: str) -> dict[str, object]:
    from feast import FeatureStore

    names = [f"seed_rationale:{name}" for name in ("rationale_embedding", "summary", "categories", "items")]
    answer = FeatureStore(str(folder / "feature_repo")).get_online_features(names, [{"seed_user_id": seed}]).to_dict()
    return {name: values[0] for name, values in answer.items() if name != "seed_user_id"}


def test_a_blocked_rationale_is_gone_online_after_the_next_publish_killed_or_not(tmp_path):
    folder = tmp_path / "D"
    tables = write_world(folder / "tables", simulate(users=40, seed=1))
    make_project(folder, tables, {}, discover=discover_columns)
    toml = (folder / "reland.toml").read_text().replace("fraction = 0.1", "count = 6")
    (folder / "reland.toml").write_text(toml + "\n[encoder.options]\nmax_epochs = 5\n")
    reland(folder, "run", *SETTINGS)
    artifacts = folder / ".reland" / "artifacts"
    matches = pl.read_parquet(next(artifacts.glob("matches/*/matches.parquet")))
    users = matches["user_id"].to_list()
    seed = matches.drop_nulls("seed_user_id")["seed_user_id"].value_counts().sort("count", "seed_user_id")[-1, 0]
    before = online(folder, users)
    had = {user for user, row in before.items() if row["user_seed_match__seed_user_id"] == seed}
    assert seed in had
    assert seed_online(folder, seed)["rationale_embedding"]

    reland(folder, "pool", "block", seed, "--reason", "rude", "--author", "ann")
    killed = subprocess.Popen([*RELAND, "publish", *SETTINGS, "--project", str(folder)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(artifacts.glob("reasoning_pool/*"))) < 2:
        assert killed.poll() is None, "the publish ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert online(folder, users) == before
    done = reland(folder, "run", *SETTINGS, "--json")

    after = online(folder, users)
    assert set(seed_online(folder, seed).values()) == {None}
    for user, row in after.items():
        if user in had:
            assert row["user_seed_match__seed_user_id"] not in (seed, None)
            assert row["user_rationale__rationale_embedding"] != before[user]["user_rationale__rationale_embedding"]
        else:
            assert row == before[user]
    log = json.loads(reland(folder, "pool", "decisions", "--json").stdout)["decisions"]
    assert [(d["seed_user_id"], d["action"], d["author"], d["reason"]) for d in log] == [(seed, "block", "ann", "rude")]
    report = Path(json.loads(done.stdout)["report"]).read_text()
    assert "How good the rationales are, without a ranker" in report
    assert f"Seed {seed}: blocked by ann, " in report

    reland(folder, "pool", "unblock", seed)
    reland(folder, "publish", *SETTINGS)
    assert online(folder, users) == before
    assert seed_online(folder, seed)["rationale_embedding"]
