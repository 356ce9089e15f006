"""Later behaviour and the published pool: matched without a fit, seeds or an LLM, on real dbt marts."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features import publishing
from reland_features.curation.editing import Desk
from reland_features.demo.simulator import simulate, write_world
from reland_features.encoders.base import FITTED
from reland_features.errors import (
    ConfigError,
    EncoderMismatchError,
    FeatureStoreError,
    PoolError,
    TableError,
)
from reland_features.explain import explain
from reland_features.finished_pool import FinishedPool
from reland_features.init import make_project
from reland_features.live_pool import open_index
from reland_features.pipeline import REFRESH, Run, refresh, run
from reland_features.pool import collection_name, live_alias
from reland_features.project import Project
from reland_features.prompts import PromptTemplate
from reland_features.quality import measure
from reland_features.sources import discover_columns

SETTINGS = [
    "rationales.engine=dummy",
    "feast.apply=false",
    "feast.materialize=false",
    "match.matcher=exact",
    "encoder.options={max_epochs=2}",
]
EARLY, LATE = "data.as_of=2024-06-01", "data.as_of=2024-07-15"


@dataclass(frozen=True)
class Days:
    """A project with features of two days, and what was made on each."""

    project: Project
    first: Run
    second: Run

    def matches(self, made: Run) -> pl.DataFrame:
        return pl.read_parquet(made.outcomes["match"].artifact.table("matches"))

    def histories(self, made: Run) -> dict[str, list[str]]:
        marts = made.outcomes["prepare"].artifact.table("user_histories")
        return dict(pl.read_parquet(marts, columns=["user_id", "item_ids"]).iter_rows())


def make(folder, *settings: str) -> Project:
    """60 users: of six two do nothing after the first day, and one comes only then; u00000005 has 4 and 1 events."""
    world = simulate(users=60, seed=1)
    kind, is_early = pl.col("user_id").str.slice(1).cast(pl.Int64) % 6, pl.col("timestamp") <= datetime(2024, 6, 1)
    seen = world.interactions.filter((kind > 2) | (is_early & (kind < 2)) | (~is_early & (kind == 2)))
    # Of four events none is held out, of five the last two: the fourth, which the first day knows, among them.
    place = pl.col("timestamp").rank("ordinal").over("user_id", is_early)
    seen = seen.filter((pl.col("user_id") != "u00000005") | (place <= pl.when(is_early).then(4).otherwise(1)))
    tables = write_world(folder / "tables", dataclasses.replace(world, interactions=seen))
    make_project(folder, tables, {}, discover=discover_columns)
    toml = (folder / "reland.toml").read_text().replace("fraction = 0.1", "count = 6")
    (folder / "reland.toml").write_text(toml)
    return Project.open(folder, [*SETTINGS, *settings])


def opened(project: Project, *settings: str) -> Project:
    return Project.open(project.root, [*SETTINGS, *settings])


def asked(project: Project) -> int:
    with sqlite3.connect(project.ledger) as connection:
        return connection.execute("select count(*) from attempts").fetchone()[0]


@pytest.fixture(scope="module", params=["lightgcn", "sasrec"])
def days(request, tmp_path_factory) -> Days:
    project = make(tmp_path_factory.mktemp("days") / "D", f"encoder.name={request.param}")
    encoder = f"encoder.name={request.param}"
    first = run(opened(project, encoder, EARLY), "publish")
    return Days(project, first, refresh(opened(project, encoder, LATE, "rationales.engine=openai")))


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


@pytest.fixture(scope="module")
def early(tmp_path_factory) -> Project:
    """A project of the first day, with the marts of the second."""
    project = make(tmp_path_factory.mktemp("early") / "D")
    run(opened(project, EARLY), "publish")
    run(opened(project, LATE), "prepare")  # once: each of the tests would have dbt build them again
    return project


@pytest.fixture
def project(early, tmp_path) -> Project:
    return opened(Project.open(shutil.copytree(early.root, tmp_path / "D")))


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


def forget_the_fit(project: Project) -> None:
    for path in project.state.glob(f"artifacts/behavior_vectors/*/{FITTED}*"):
        path.unlink()


def drop_the_seeds(project: Project) -> None:
    shutil.rmtree(project.state / "artifacts" / "seed_users")


def unpublish(project: Project) -> None:
    (project.state / "current.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "settings", "error", "what", "hint"),
    [
        (None, ["seed=1", LATE], EncoderMismatchError, "made with another encoder", "make a new pool: reland run"),
        (None, ["data.as_of=2024-05-01"], PoolError, "tables end before those", "a pool of that day"),
        (None, ["evaluation.holdout=0", LATE], ConfigError, "may know what is to be predicted", "reland run"),
        (None, ["encoder.name=sasrec", LATE], EncoderMismatchError, "made with another encoder", "reland run"),
        (forget_the_fit, [LATE], PoolError, "learnt was not kept", "make a new pool: reland run"),
        (drop_the_seeds, [LATE], PoolError, "seed_users that this pool was made from are gone", "reland run"),
        (unpublish, [LATE], FeatureStoreError, "published no features yet", "reland run"),
    ],
)
def test_a_pool_that_cannot_be_matched_to_is_refused_before_anything_changes(
    project, spoil, settings, error, what, hint
):
    if spoil:
        spoil(project)
    current = project.state / "current.json"
    before = current.read_text() if current.is_file() else None
    with pytest.raises(error, match=what) as raised:
        refresh(opened(project, *settings))
    assert hint in raised.value.hint
    assert (current.read_text() if current.is_file() else None) == before
    assert len(list((project.features / "user_rationale").glob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("spoil", "settings", "warned"),
    [
        (None, [LATE], True),
        # What `reland refresh` would refuse, it is not the way out of.
        (None, ["seed=1", LATE], False),
        (None, ["data.as_of=2024-05-01"], False),
        (forget_the_fit, [LATE], False),
    ],
)
def test_a_run_says_that_it_leaves_the_published_pool_before_it_fits(project, caplog, spoil, settings, warned):
    if spoil:
        spoil(project)
    run(opened(project, *settings), "encode")
    assert ("this makes another pool" in caplog.text) is warned
    if warned:
        assert "up to 2024-06-01T00:00:00" in caplog.text
        assert "now 2024-07-15T00:00:00" in caplog.text
        assert "To keep the pool: reland refresh" in caplog.text


def test_after_a_refresh_a_run_still_makes_another_pool(project, caplog):
    refresh(opened(project, LATE))
    assert "another pool" not in caplog.text
    run(opened(project, LATE), "encode")
    assert "this makes another pool" in caplog.text


OWN = """
from reland_features.encoders.lightgcn import LightGCN

class Own:
    def __init__(self, dimension, seed):
        self.inner, self.encoder_id = LightGCN(dimension, seed, max_epochs=1), "own"

    def encode(self, interactions, as_of):
        vectors = self.inner.encode(interactions, as_of)
        return type(vectors)(vectors.user_ids, vectors.vectors, "own", as_of)
"""


TAKES_OTHER = """
    def save(self, path):
        raise AssertionError("not meant")

    def transform(self, X):
        raise AssertionError("not meant")
"""


@pytest.mark.parametrize("more", ["", TAKES_OTHER], ids=["no methods", "methods of another meaning"])
def test_an_encoder_of_ones_own_is_told_what_it_lacks(project, monkeypatch, more):
    monkeypatch.delitem(sys.modules, "own_encoder", raising=False)
    monkeypatch.syspath_prepend(project.root)
    (project.root / "own_encoder.py").write_text(OWN + more)
    own = ["encoder.name=own_encoder:Own", "encoder.options={}"]
    run(opened(project, *own, EARLY), "publish")
    with pytest.raises(ConfigError, match="without being fitted again") as raised:
        refresh(opened(project, *own, LATE))
    assert raised.value.got == "Own without save(folder) or transform(interactions, as_of, fitted)"


def test_tables_of_which_the_pool_knows_nobody_are_refused(project):
    for path in (project.root / "tables").glob("*.parquet"):
        frame = pl.read_parquet(path)
        ids = [pl.format("x{}", name).alias(name) for name in ("user_id", "item_id") if name in frame.columns]
        frame.with_columns(ids).write_parquet(path)
    with pytest.raises(TableError, match="no user has behaviour that the pool's encoder knows"):
        refresh(opened(project, LATE))
