"""Walk through the repository: apply, join for training, materialize, read online.

Run it in here, after `reland run` has published features: ``python test_workflow.py``.
"""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from feast import FeatureStore


def run_demo() -> None:
    """Run every step in the order of a first day."""
    print("\n--- Run feast apply ---")
    subprocess.run(["feast", "apply"], check=True)
    store = FeatureStore(repo_path=".")
    users, items, as_of = published_keys(store)

    print("\n--- Historical features for training: every row comes back, also those that share user and time ---")
    fetch_historical_features(store, users, items, as_of)

    print("\n--- Load features into the online store: START END, as incremental would begin at now - ttl ---")
    store.materialize(start_date=as_of, end_date=datetime.now(UTC))

    print("\n--- Online features of a service; the last user is unknown ---")
    fetch_online_features(store, users, items)

    print("\n--- Compact layout: user to seed, then seed to rationale ---")
    fetch_compact_layout(store, users)


def published_keys(store: FeatureStore) -> tuple[list[str], list[str], datetime]:
    """Take two users, two items and the time of the features from what is published."""
    pattern = Path(store.get_feature_view("user_rationale").batch_source.path)
    files = sorted(pattern.parent.glob(pattern.name), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit(f"no features are published in {pattern.parent}: reland run")
    columns = ["user_id", "seed_user_id", "event_timestamp"]
    rows = pd.read_parquet(files[-1], columns=columns).dropna().head(2)
    pattern = Path(store.get_feature_view("item_attributes").batch_source.path)
    items = pd.read_parquet(pattern.parent / files[-1].name, columns=["item_id"]).head(2)
    as_of = rows["event_timestamp"].iloc[0].to_pydatetime().replace(tzinfo=UTC)
    return rows["user_id"].tolist(), items["item_id"].tolist(), as_of


def fetch_historical_features(store: FeatureStore, users: list[str], items: list[str], as_of: datetime) -> None:
    """Join a service to a frame with duplicate (user, item, time) rows."""
    pairs = [(user, item) for user in users for item in items] * 2
    entity_df = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(event_timestamp=as_of)
    training_df = store.get_historical_features(
        entity_df=entity_df, features=store.get_feature_service("ranker_with_rationales"), full_feature_names=True
    ).to_df()
    assert len(training_df) == len(entity_df)
    columns = ["user_id", "item_id", *(name for name in training_df.columns if "cross" in name or "affinity" in name)]
    print(training_df[columns].to_string())


def fetch_online_features(store: FeatureStore, users: list[str], items: list[str]) -> None:
    """Read a service for known users and an unknown one."""
    returned = store.get_online_features(
        features=store.get_feature_service("ranker_with_rationales"),
        entity_rows=[{"user_id": user, "item_id": items[0]} for user in [*users, "nobody"]],
        full_feature_names=True,
    ).to_dict()
    for name, values in sorted(returned.items()):
        print(name, " : ", values)


def fetch_compact_layout(store: FeatureStore, users: list[str]) -> None:
    """Read the seed of each user, and then the rationale of each seed."""
    match = store.get_online_features(
        features=["user_seed_match:seed_user_id", "user_seed_match:similarity"],
        entity_rows=[{"user_id": user} for user in users],
    ).to_dict()
    rationale = store.get_online_features(
        features=["seed_rationale:summary", "seed_rationale:categories"],
        entity_rows=[{"seed_user_id": seed} for seed in match["seed_user_id"]],
    ).to_dict()
    for user, seed, summary in zip(users, match["seed_user_id"], rationale["summary"], strict=True):
        print(f"{user} <- seed {seed}: {summary}")


if __name__ == "__main__":
    run_demo()
