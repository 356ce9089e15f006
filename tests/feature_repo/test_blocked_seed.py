"""A blocked rationale disappears from the online store with the next publish: SQLite, and Redis where it is installed.

Feast never takes a row away, and Redis skips a row that is not newer than the stored one: what must not be served is
covered by a newer row without content.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime

import polars as pl
import pytest
from toy_project import make_toy

from reland_features.columns import SEED_RATIONALE, USER_RATIONALE, USER_SEED_MATCH
from reland_features.curation import Curation, Decision
from reland_features.feast import apply_repository, materialize, open_store
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
TABLES = (USER_RATIONALE, USER_SEED_MATCH, SEED_RATIONALE)


@pytest.fixture(params=["feature_store.yaml", "feature_store_redis.yaml"], ids=["sqlite", "redis"])
def store_file(request):
    if "redis" in request.param:
        request.getfixturevalue("redis")
    return request.param


def online(root, store_file: str, users: list[str], seeds: list[str]) -> dict[str, dict[str, dict[str, object]]]:
    """All features but the stamps of a publication, by table and key."""
    store, found = open_store(root / "feature_repo", store_file), {}
    for table in TABLES:
        key, keys = table.key[0], seeds if table is SEED_RATIONALE else users
        stamps = (key, "event_timestamp", "created_timestamp", "pool_version")
        names = [name for name in table.names if name not in stamps]
        answer = store.get_online_features([f"{table.name}:{name}" for name in names], [{key: each} for each in keys])
        values = answer.to_dict()
        found[table.name] = {each: {name: values[name][row] for name in names} for row, each in enumerate(keys)}
    return found


def test_a_blocked_rationale_is_online_for_nobody_and_nobody_else_changes(applied, tmp_path, store_file):
    root = tmp_path / "project"
    shutil.copytree(applied.root, root)
    shutil.rmtree(root / "feature_repo" / "data")
    apply_repository(root / "feature_repo", store_file)  # the registry holds absolute paths
    toy = make_toy(users=110)
    users, seeds = toy.users["user_id"].to_list(), toy.pool["seed_user_id"].to_list()
    materialize(root / "feature_repo", root / "features", store_file=store_file)
    before = online(root, store_file, users, seeds)
    seed, heir = "u1", "u4"  # the same taste
    had = [user for user, row in before["user_seed_match"].items() if row["seed_user_id"] == seed]
    assert len(had) > 5
    assert before["seed_rationale"][seed]["rationale_embedding"]

    blocked = replace(
        toy,
        pool=toy.pool.filter(pl.col("seed_user_id") != seed),
        matches=toy.matches.with_columns(pl.col("seed_user_id").replace({seed: heir})),
    )
    frames = blocked.features("pool-2", datetime(2024, 3, 3))
    curation = Curation.of([Decision(seed, "block", "ann", "2024-03-02T10:00:00", "rude")])
    frames["seed_rationale"] = curation.publishable(frames["seed_rationale"])
    publish(frames, root / "features", "run-2")
    materialize(root / "feature_repo", root / "features", "run-2", store_file=store_file)
    after = online(root, store_file, users, seeds)

    assert set(after["seed_rationale"][seed].values()) == {None}
    assert seed not in {row["seed_user_id"] for row in after["user_seed_match"].values()}
    for user in had:
        assert after["user_seed_match"][user]["seed_user_id"] == heir
        assert (
            after["user_rationale"][user]["rationale_embedding"]
            == before["seed_rationale"][heir]["rationale_embedding"]
        )
    for table, rows in before.items():
        for key, row in rows.items():
            if key not in had and not (table == "seed_rationale" and key == seed):
                assert after[table][key] == row, (table, key)
