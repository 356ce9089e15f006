"""A blocked rationale must not stay with users who are no longer in the tables: Feast never takes a row away."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from reland_features import publishing
from reland_features.curation.editing import Desk

CONTENT = ("rationale_embedding", "rationale_components", "seed_user_id", "similarity", "cluster_id", "summary")


def heir(toy, outcomes) -> tuple[str, str]:
    """A user that is no seed, and the seed that it inherits from."""
    rows = toy.published(outcomes, "user_seed_match").drop_nulls("seed_user_id")
    return (
        rows.filter(~pl.col("user_id").is_in(rows["seed_user_id"].implode())).select("user_id", "seed_user_id").row(0)
    )


def newest(toy, table: str, user: str) -> dict[str, object]:
    return toy.newest(table).row(by_predicate=pl.col("user_id") == user, named=True)


def test_a_blocked_rationale_leaves_users_who_left(toy):
    user, seed = heir(toy, toy.build())
    Desk.of(toy.open()).block(seed, "ann", "names a person")
    toy.leave(user)
    second = toy.build()
    assert user not in pl.read_parquet(second["match"].artifact.table("matches"))["user_id"]
    for table in ("user_rationale", "user_seed_match"):
        row = newest(toy, table, user)
        assert {row[name] for name in CONTENT if name in row} == {None}
        assert row["pool_version"] == second["pool"].artifact.manifest["pool_version"]
        assert seed not in toy.newest(table)["seed_user_id"].to_list()
        assert toy.published(second, table).height == 30  # 29 users and the cover
    assert toy.build()["publish"].cached


def test_a_user_who_left_before_the_block_is_covered_too_and_once(toy):
    user, seed = heir(toy, toy.build())
    toy.leave(user)
    toy.build()
    assert newest(toy, "user_rationale", user)["seed_user_id"] == seed  # who merely left keeps the last row
    Desk.of(toy.open()).block(seed, "ann", "names a person")
    covered = toy.build()
    assert newest(toy, "user_seed_match", user)["seed_user_id"] is None
    other = toy.build("rationales.embed=summary")
    assert toy.published(covered, "user_rationale").height == toy.published(other, "user_rationale").height + 1
    assert newest(toy, "user_rationale", user)["summary"] is None


def test_who_left_with_another_rationale_keeps_it(toy):
    first = toy.build()
    user, seed = heir(toy, first)
    before = newest(toy, "user_rationale", user)
    others = toy.published(first, "user_seed_match").filter(pl.col("seed_user_id") != seed)
    toy.leave(user)
    Desk.of(toy.open()).block(others["seed_user_id"][0], "ann", "rude")
    toy.build()
    assert newest(toy, "user_rationale", user) == before


def test_a_blocked_seed_among_several_is_covered_in_every_view(toy):
    """The fused embedding holds a share of each seed, not only of the best one."""
    first = toy.build("match.top_k=3")
    detail = toy.published(first, "user_match_detail")
    seeds = set(detail["seed_user_ids"].explode())
    user, named = next(row for row in detail.select("user_id", "seed_user_ids").iter_rows() if row[0] not in seeds)
    Desk.of(toy.open()).block(named[1], "ann", "names a person")
    toy.leave(user)
    toy.build("match.top_k=3")
    row = newest(toy, "user_match_detail", user)
    assert (row["seed_user_ids"], row["seed_weights"], row["is_cold_start"]) == ([], [], False)
    assert newest(toy, "user_rationale", user)["rationale_embedding"] is None
    assert newest(toy, "user_seed_match", user)["seed_user_id"] is None


@pytest.mark.parametrize("renamed", [1, 2, 5])
def test_a_publish_that_was_killed_between_its_tables_ends_with_the_same_covers(toy, monkeypatch, renamed):
    user, seed = heir(toy, toy.build())
    Desk.of(toy.open()).block(seed, "ann", "names a person")
    toy.leave(user)
    rename, done = Path.rename, []

    def dies(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if ".staging" in str(path):
            done.append(target)
            if len(done) == renamed:
                raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(publishing.Path, "rename", dies)
        toy.build()
    made = toy.build()
    for table in ("user_rationale", "user_seed_match"):
        assert toy.published(made, table).filter(pl.col("user_id") == user)["seed_user_id"].to_list() == [None]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_feast_serves_and_joins_nothing_of_a_blocked_seed_to_who_left(toy):
    from reland_features.feast import open_store

    first = toy.build()
    toy.serve(first)
    user, seed = heir(toy, first)
    Desk.of(toy.open()).block(seed, "ann", "names a person")
    toy.leave(user)
    toy.serve(toy.build())
    store = open_store(toy.root / "feature_repo")
    features = ["user_rationale:summary", "user_rationale:rationale_embedding", "user_seed_match:similarity"]
    online = store.get_online_features(features, [{"user_id": user}]).to_dict()
    assert [online[name.split(":")[1]] for name in features] == [[None]] * 3
    at = pd.Timestamp(first["publish"].as_of, tz="UTC") + pd.Timedelta("1h")
    asked = pd.DataFrame({"user_id": [user], "event_timestamp": [at]})
    item = toy.newest("item_attributes")["item_id"][0]
    cross = ["rationale_item_cross:has_rationale", *features]
    joined = store.get_historical_features(asked.assign(item_id=item), cross).to_df()
    assert joined["has_rationale"].to_list() == [0]
    assert joined["summary"].isna().all()
    assert joined["similarity"].isna().all()


def test_what_a_backfill_put_online_counts_beside_the_newest_row(tmp_path):
    """A backfill is served, though its rows are older: the newest row by timestamp names another seed."""

    def run(name: str, day: int, created: int, seed: str | None) -> None:
        times = {"event_timestamp": datetime(2026, 1, day), "created_timestamp": datetime(2026, 2, created)}
        rows = pl.DataFrame({"user_id": ["gone"], "seed_user_id": [seed], **times})
        for table in ("user_rationale", "user_seed_match"):
            (tmp_path / table).mkdir(exist_ok=True)
            rows.write_parquet(tmp_path / table / f"{name}.parquet")

    run("daily", day=10, created=1, seed="kept")
    run("backfill", day=5, created=2, seed="blocked")
    assert publishing.users_of(tmp_path, ["blocked"], without="") == ["gone"]
    assert publishing.users_of(tmp_path, ["kept"], without="") == ["gone"]
    run("cover", day=11, created=3, seed=None)
    assert publishing.users_of(tmp_path, ["blocked", "kept"], without="") == []
