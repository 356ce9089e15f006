"""Going back to an earlier configuration of the same data: what is served, joined and live is what was asked for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features import live_pool, publishing
from reland_features import pool as pools
from reland_features.index import MilvusIndex

A, B = "rationales.embed=recommendations", "rationales.embed=summary"
MILVUS = "match.matcher=milvus"
STAMPS = ["pool_version", "created_timestamp"]
TABLES = ("user_rationale", "user_seed_match", "seed_rationale")


def version(outcomes) -> str:
    return outcomes["pool"].artifact.manifest["pool_version"]


def served_pools(toy) -> set[str]:
    """Pool versions of all rows that Feast would take now."""
    return {found for table in TABLES for found in toy.newest(table)["pool_version"]}


def files(toy) -> set[Path]:
    """Published files; what is staged is none."""
    return {path for path in (toy.root / "features").glob("*/*.parquet") if not path.parent.name.startswith(".")}


def live(toy) -> str | None:
    index = MilvusIndex(toy.open().pool_uri)
    try:
        return index.alias(pools.live_alias("reland"))
    finally:
        index.close()


def test_going_back_publishes_the_earlier_rows_again_in_a_newer_run(toy):
    first, second = toy.build(A), toy.build(B)
    assert served_pools(toy) == {version(second)}
    again = toy.build(A)
    assert again["match"].cached
    assert served_pools(toy) == {version(first)} == {toy.open().current()["pool_version"]}
    made_with = toy.open().current()["pool_made_with"]
    assert set(made_with) == {"encoder_id", "text_encoder_id", "embedded"}
    assert all(made_with.values()), "what a ranker across pools is held to"
    assert toy.open().current()["features_run"] == again["publish"].artifact.id != first["publish"].artifact.id
    for table in TABLES:
        before, after = (toy.published(o, table).drop(STAMPS) for o in (first, again))
        assert_frame_equal(before, after, check_exact=True)


def test_repeating_a_configuration_publishes_nothing_more(toy):
    toy.build(A)
    toy.build(B)
    again = toy.build(A)
    published = files(toy)
    for _ in range(2):
        repeated = toy.build(A)
        assert {name: outcome.cached for name, outcome in repeated.items()} == dict.fromkeys(repeated, True)
        assert repeated["publish"].artifact.id == again["publish"].artifact.id
        assert files(toy) == published
    toy.build(B)
    last = toy.build(A)
    assert served_pools(toy) == {version(last)}
    assert toy.build(A)["publish"].cached


def test_a_project_that_never_went_back_keeps_its_ids(toy):
    made = toy.build(A)
    marts, seeds, pool, matches = (made[name].artifact.id for name in ("prepare", "sample", "pool", "match"))
    publish = made["publish"]
    plain = toy.open().artifacts.id_of(
        "features", publish.as_of, {"text_encoder_id": "hash"}, [marts, seeds, pool, matches]
    )
    assert publish.artifact.id == plain == toy.build(A)["publish"].artifact.id


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_what_a_kill_left_of_the_earlier_run_does_not_stay_hidden(toy, monkeypatch, renamed):
    """`publish` dies before or between its renames, another configuration is published, and then it runs again."""
    rename, done = Path.rename, []

    def dies(path: Path, target: Path) -> Path:
        if ".staging" in str(path):
            if len(done) == renamed:
                raise KeyboardInterrupt
            done.append(target)
        return rename(path, target)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(publishing.Path, "rename", dies)
        toy.build(A)
    assert len(files(toy)) == renamed
    toy.build(B)
    again = toy.build(A)
    assert served_pools(toy) == {version(again)}
    assert toy.build(A)["publish"].cached


def test_a_clock_that_went_back_hides_nothing(toy, monkeypatch):
    """The rows of a run are newer than all before, or Feast would not take them."""
    toy.build(A)
    clock = toy.newest("user_rationale")["created_timestamp"][0]
    monkeypatch.setattr("reland_features.stages.serving.now", lambda: clock.replace(year=2020))
    second = toy.build(B)
    assert served_pools(toy) == {version(second)}


def test_the_live_alias_follows_a_cached_match(toy, monkeypatch):
    first, second = toy.build(A, MILVUS), toy.build(B, MILVUS)
    assert live(toy) == f"reland_{version(second)}"
    again = toy.build(A, MILVUS)
    assert again["match"].cached
    assert live(toy) == f"reland_{version(first)}"
    with monkeypatch.context() as patched:  # and Milvus, which takes seconds, is not opened where nothing is to do
        patched.setattr(live_pool, "open_index", None)
        assert toy.build(A, MILVUS)["match"].cached


def test_the_live_alias_is_right_after_a_kill_between_promotion_and_note(toy, monkeypatch):
    def dies(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    first = toy.build(A, MILVUS)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(live_pool, "write_atomically", dies)
        toy.build(B, MILVUS)
    assert live(toy) != f"reland_{version(first)}"
    assert toy.build(A, MILVUS)["match"].cached
    assert live(toy) == f"reland_{version(first)}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_feast_serves_and_joins_what_was_gone_back_to(toy):
    from reland_features.feast import open_store

    first = toy.build(A)
    toy.serve(first, A)
    toy.serve(toy.build(B), B)
    again = toy.build(A)
    toy.serve(again, A)
    expected = toy.published(first, "user_rationale")
    users, features = (
        expected["user_id"].to_list(),
        ["user_rationale:pool_version", "user_rationale:rationale_embedding"],
    )
    store = open_store(toy.root / "feature_repo")
    online = store.get_online_features(features, [{"user_id": user} for user in users]).to_dict()
    asked = pd.DataFrame({"user_id": users, "event_timestamp": pd.Timestamp(again["publish"].as_of, tz="UTC")})
    offline = pl.from_pandas(store.get_historical_features(asked, features).to_df()).sort("user_id")
    for answer in (online, offline.to_dict(as_series=False)):
        assert set(answer["pool_version"]) == {version(first)}
        assert answer["rationale_embedding"] == expected["rationale_embedding"].to_list()
    assert toy.serve(toy.build(A), A).cached
