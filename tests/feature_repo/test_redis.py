"""The Redis profile: the same answers as SQLite and as offline."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from toy_project import AS_OF, make_toy

from reland_features.errors import FeatureStoreError
from reland_features.feast import check_freshness, materialize, open_store

pytestmark = pytest.mark.filterwarnings("ignore")
PROFILE = "feature_store_redis.yaml"


def test_sqlite_redis_and_offline_agree_for_100_users(applied, tmp_path, redis):
    root = tmp_path / "project"
    shutil.copytree(applied.root, root)
    repository, features = root / "feature_repo", root / "features"
    materialize(repository, features, store_file=PROFILE)
    keys = [{"user_id": u, "item_id": "i7"} for u in [*(f"u{n}" for n in range(100)), "u109", "stranger"]]
    sqlite, served = open_store(repository), open_store(repository, PROFILE)
    assert served.config.online_store.type == "redis"
    service = sqlite.get_feature_service("ranker_with_rationales")
    names = [*_names(service), "user_rationale:rationale_embedding", "user_rationale:summary"]
    answers = [store.get_online_features(names, keys, full_feature_names=True).to_dict() for store in (sqlite, served)]
    assert answers[0] == answers[1]
    frame = pd.DataFrame(keys).assign(event_timestamp=pd.Timestamp(AS_OF), row=range(len(keys)))
    joined = sqlite.get_historical_features(frame, names, full_feature_names=True).to_df().sort_values("row")
    for name in ("rationale_item_cross__rationale_item_cosine", "user_rationale__similarity"):
        offline = [None if value != value else value for value in joined[name]]
        assert offline == pytest.approx(answers[1][name], abs=1e-6)
    assert answers[1]["user_rationale__similarity"][-2:] == [None, None]


def test_a_republished_run_replaces_rows_of_the_same_event_time(moved, redis):
    materialize(moved.repository, moved.features, store_file=PROFILE)
    run_id, _ = moved.publish(make_toy(users=110, seed=9), "pool-9")
    with pytest.raises(FeatureStoreError, match="does not hold"):
        check_freshness(moved.repository, moved.features, run_id, store_file=PROFILE)
    materialize(moved.repository, moved.features, run_id, store_file=PROFILE)
    assert check_freshness(moved.repository, moved.features, run_id, store_file=PROFILE)["user_rationale"] == 100


def _names(service) -> list[str]:
    return [f"{p.name_to_use()}:{f.name}" for p in service.feature_view_projections for f in p.features]
