"""Later behaviour and the published pool: matched without a fit, seeds or an LLM, on real dbt marts."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from two_days import EARLY, LATE, SETTINGS, opened

from reland_features import publishing
from reland_features.curation.editing import Desk
from reland_features.errors import FeatureStoreError, PoolError
from reland_features.explain import explain
from reland_features.finished_pool import FinishedPool
from reland_features.live_pool import open_index
from reland_features.pipeline import REFRESH, refresh, run
from reland_features.pool import collection_name, live_alias
from reland_features.project import Project
from reland_features.prompts import PromptTemplate
from reland_features.quality import measure


def asked(project: Project) -> int:
    with sqlite3.connect(project.ledger) as connection:
        return connection.execute("select count(*) from attempts").fetchone()[0]


def test_no_seed_is_drawn_no_llm_asked_and_the_pool_stays(days):
    store = days.project.artifacts
    assert [len(store.all(kind)) for kind in ("seed_users", "rationales", "reasoning_pool")] == [1, 1, 1]
    assert len(store.all("behavior_vectors")) == 2
    assert asked(days.project) == days.first.outcomes["generate"].rows_in == 6
    first, second = (made.outcomes["publish"].artifact.manifest["pool_version"] for made in (days.first, days.second))
    assert first == second == days.project.current()["pool_version"]
    assert tuple(days.second.outcomes) == REFRESH


def test_everybody_is_matched_by_the_behaviour_of_the_later_day(days):
    second = days.second.outcomes
    assert (
        second["publish"].as_of.isoformat() == "2024-07-15T00:00:00" > days.first.outcomes["publish"].as_of.isoformat()
    )
    users = pl.read_parquet(second["prepare"].artifact.table("users"))["user_id"]
    vectors = pl.read_parquet(second["encode"].artifact.table("behavior_vectors"))
    pool = FinishedPool.find(days.project).pool
    unit = [np.array(rows, np.float64) for rows in (vectors["vector"].to_list(), pool.frame["vector"].to_list())]
    of_users, of_seeds = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in unit)
    cosines = of_users @ of_seeds.T
    best = cosines.argmax(axis=1)
    expected = users.to_frame().join(
        pl.DataFrame(
            {
                "user_id": vectors["user_id"],
                "seed_user_id": pool.frame["seed_user_id"].gather(best),
                "similarity": pl.Series(cosines.max(axis=1), dtype=pl.Float32),
            }
        ),
        on="user_id",
        how="left",
    )
    found = days.matches(days.second)
    assert found["rank"].unique().to_list() == [1]
    assert_frame_equal(found.drop("rank"), expected, check_row_order=False, abs_tol=1e-6)
    published = days.project.features / "user_seed_match" / f"{second['publish'].artifact.id}.parquet"
    rows = pl.read_parquet(published)
    assert_frame_equal(rows.select(found.drop("rank").columns), found.drop("rank"), check_row_order=False)
    assert rows["event_timestamp"].unique().to_list() == [second["publish"].as_of]


def test_who_did_nothing_since_inherits_what_he_did_and_new_users_inherit_too(days):
    before, after = (days.histories(made) for made in (days.first, days.second))
    idle = [user for user, items in before.items() if after.get(user) == items]
    new = [user for user in after if user not in before]
    assert len(idle) > 5
    assert new
    was, now = (days.matches(made).filter(pl.col("user_id").is_in(idle)) for made in (days.first, days.second))
    assert_frame_equal(was, now, check_row_order=False, abs_tol=1e-6)
    known = {item for items in before.values() for item in items}
    has_known = {user: bool(known.intersection(after[user])) for user in new}
    assert sorted(set(has_known.values())) == [False, True]
    of_new = days.matches(days.second).filter(pl.col("user_id").is_in(new))
    assert {user: seed is not None for user, seed in of_new.select("user_id", "seed_user_id").iter_rows()} == has_known
    assert {user: explain(days.project, user).summary is not None for user in new} == has_known


def test_the_drift_is_that_of_the_tables(days):
    drift = days.second.drift
    was, now = (
        dict(days.matches(made).drop_nulls().select("user_id", "seed_user_id").iter_rows())
        for made in (days.first, days.second)
    )
    both = was.keys() & now.keys()
    later = pl.read_parquet(days.second.outcomes["prepare"].artifact.table("interactions"))
    items = pl.read_parquet(days.first.outcomes["prepare"].artifact.table("interactions"))["item_id"]
    assert (drift.users, drift.matched) == (days.matches(days.second).height, len(now))
    assert 0 < drift.newly_matched == len(now.keys() - was.keys())
    assert (drift.compared, drift.kept) == (len(both), sum(was[user] == now[user] for user in both))
    assert drift.similarity == pytest.approx(days.matches(days.second)["similarity"].drop_nulls().mean())
    assert drift.similarity_then == pytest.approx(days.matches(days.first)["similarity"].drop_nulls().mean())
    since = later.filter(pl.col("interacted_at") > drift.pool_as_of)
    assert 0 < drift.events == since.height < later.height
    assert 0 < drift.events_with_new_items == since.filter(~pl.col("item_id").is_in(items.implode())).height
    assert drift.pool_as_of == days.first.outcomes["encode"].as_of < drift.as_of


def test_the_pool_is_still_measured_by_the_tables_that_it_was_made_from(days):
    assert FinishedPool.find(days.project).matches.id == days.first.outcomes["match"].artifact.id


def test_what_users_inherit_is_measured_where_they_were_not_matched_by_those_tables(days):
    """As after `reland pool block` and a refresh: the pool of fewer rationales has later matches alone."""
    finished = FinishedPool.find(days.project)
    written = finished.written(PromptTemplate.of(days.project.config.rationales, base=days.project.root))
    names = {"inherited_category_precision"}
    by_matches, matched_here, without_vectors = (
        {sample.name: sample for sample in measure(each, written).samples if sample.name in names}
        for each in (
            finished,
            dataclasses.replace(finished, matches=None),
            dataclasses.replace(finished, matches=None, vectors=None),
        )
    )
    assert by_matches.keys() == matched_here.keys() == names
    assert without_vectors == {}
    then, here = by_matches.popitem()[1], matched_here.popitem()[1]
    assert then.ids == here.ids
    assert len(then.ids) > 20
    for column in ("pool", "constant", "shuffled"):
        np.testing.assert_array_equal(getattr(here, column), getattr(then, column))


def test_a_second_refresh_finds_everything_done_and_one_of_the_same_tables_changes_nothing(days):
    encoder = f"encoder.name={days.second.outcomes['encode'].artifact.manifest['encoder_id'].partition('(')[0]}"
    again = refresh(opened(days.project, encoder, LATE))
    assert all(outcome.cached for name, outcome in again.outcomes.items() if name != "feast")
    assert again.drift == days.second.drift
    back = refresh(opened(days.project, encoder, EARLY))
    assert back.outcomes["match"].artifact.id == days.first.outcomes["match"].artifact.id
    assert (back.drift.kept, back.drift.newly_matched, back.drift.events) == (back.drift.compared, 0, 0)
    refresh(opened(days.project, encoder, LATE))


def test_the_command_says_what_a_refresh_changed(project):
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "reland_features",
        "refresh",
        "-C",
        project.root,
        "--as-of",
        "2024-07-15",
        "--json",
    ]
    done = subprocess.run([*command, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said["stages"]) == list(REFRESH)
    assert said["drift"]["users"] == said["stages"]["publish"]["rows_in"]
    assert "who had one then inherit from the same seed" in done.stderr
    assert f"{said['drift']['newly_matched']:,} newly; mean cosine" in done.stderr


def test_a_full_disk_while_publishing_loses_nothing_that_was_made(project, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_stage", full)
        with pytest.raises(FeatureStoreError, match="could not be written"):
            refresh(opened(project, LATE))
    assert project.current()["as_of"].startswith("2024-06-01")
    done = refresh(opened(project, LATE)).outcomes
    assert [done[stage].cached for stage in ("prepare", "encode", "pool", "match", "publish")] == [True] * 4 + [False]
    assert project.current()["as_of"].startswith("2024-07-15")


def test_what_people_decide_after_a_refresh_is_served_by_the_next(project):
    refresh(opened(project, LATE))
    before = project.current()
    matches = pl.read_parquet(project.features / "user_seed_match" / f"{before['features_run']}.parquet")
    seed = matches["seed_user_id"].drop_nulls().mode().sort()[0]
    Desk.of(opened(project, LATE)).block(seed, "ann", "names a person")
    with pytest.raises(PoolError, match="not served already") as raised:
        Desk.of(opened(project, LATE)).block(seed, "ann", "names a person")
    assert raised.value.hint == "reland refresh"  # to publish would be to run on tables that have grown
    refresh(opened(project, LATE))
    after = project.current()
    later = pl.read_parquet(project.features / "user_seed_match" / f"{after['features_run']}.parquet")
    assert after["pool_version"] != before["pool_version"]
    assert later.filter(pl.col("seed_user_id") == seed).height == 0
    untouched = matches.filter(pl.col("seed_user_id") != seed)["user_id"]
    columns = ["user_id", "seed_user_id", "similarity"]
    assert_frame_equal(
        later.filter(pl.col("user_id").is_in(untouched.implode())).select(columns),
        matches.filter(pl.col("user_id").is_in(untouched.implode())).select(columns),
        check_row_order=False,
    )
    assert asked(project) == 6


def test_a_failure_after_publishing_changes_nothing_of_what_is_said(project, monkeypatch):
    def down(*args: object) -> None:
        raise FeatureStoreError("the online store cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr("reland_features.stages.serve", down)
        with pytest.raises(FeatureStoreError):
            refresh(opened(project, LATE))
    assert project.current()["as_of"].startswith("2024-07-15")
    drift = refresh(opened(project, LATE)).drift
    assert 0 < drift.kept < drift.compared
    assert drift.newly_matched > 0


def test_events_that_are_held_out_now_and_were_behaviour_then_are_warned_of(project, caplog):
    seen = pl.read_parquet(next(project.state.glob("artifacts/marts/*/interactions.parquet")))
    done = refresh(opened(project, LATE)).outcomes
    holdout = pl.read_parquet(done["prepare"].artifact.table("holdout"))
    known = holdout.join(seen, on=["user_id", "item_id"], how="semi")
    assert "u00000005" in known["user_id"].to_list()
    assert done["encode"].artifact.manifest["holdout_known"] == known.height
    assert f"{known.height} of {holdout.height} held-out events were behaviour" in caplog.text


def test_profiles_choose_for_users_of_whom_the_encoder_knows_nothing(project):
    plain = refresh(opened(project, LATE))
    matches = pl.read_parquet(plain.outcomes["match"].artifact.table("matches"))
    lacking = matches.filter(pl.col("seed_user_id").is_null())["user_id"]
    histories = pl.read_parquet(plain.outcomes["prepare"].artifact.table("user_histories"))["user_id"]
    assert lacking.is_in(histories.implode()).any()  # with behaviour
    filled = refresh(opened(project, LATE, "cold_start.enabled=true", "cold_start.min_interactions=1")).outcomes[
        "match"
    ]
    found = pl.read_parquet(filled.artifact.table("matches"))
    assert found["seed_user_id"].null_count() == 0
    others = found.filter(~pl.col("user_id").is_in(lacking.implode()))
    assert_frame_equal(others, matches.filter(~pl.col("user_id").is_in(lacking.implode())), check_row_order=False)


def test_in_milvus_the_pool_stays_live(project):
    milvus = "match.matcher=milvus"
    run(opened(project, EARLY, milvus), "publish")
    exact = refresh(opened(project, LATE)).outcomes["match"]
    found = refresh(opened(project, LATE, milvus))
    matches = [pl.read_parquet(outcome.artifact.table("matches")) for outcome in (exact, found.outcomes["match"])]
    assert_frame_equal(*matches)
    index = open_index(opened(project, milvus))
    try:
        live = index.alias(live_alias(project.config.pool.collection_prefix))
    finally:
        index.close()
    version = project.current()["pool_version"]
    assert live == collection_name(project.config.pool.collection_prefix, version)
