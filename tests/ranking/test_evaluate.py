"""The evaluation sees a gain where there is one, and none where rationales are dealt at random."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from polars.testing import assert_frame_equal
from toy_project import make_toy

from ranking.control_frames import (
    Frames,
    MeanTexts,
    beside,
    constant,
    deal,
    join_features,
    match_alone,
    shuffled,
    texts_without_llm,
)
from ranking.controls import CONSTANT, MATCH, MEAN_TEXT, RATIONALES, SEED_TEXT, SHUFFLED, with_mean_text
from ranking.dataset import TEST, TRAIN, ranking_queries
from ranking.evaluate import BASELINE, main, table
from ranking.tabular import COMPONENTS, rationale_features
from ranking.train import ROUNDS, load
from ranking.trained_facts import required
from reland_features.errors import ArtifactError
from reland_features.feast import open_store

TOY = make_toy(users=300, items=60, seeds=12)  # that of `project`

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def metrics(project, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluate") / "new" / "metrics.json"
    assert main(["--project", str(project.root), "--output", str(output), "--candidates", "40"]) == 0
    return json.loads(output.read_text())


def test_rationales_that_decide_are_found_to_decide(metrics):
    rankers = {ranker["name"]: ranker for ranker in metrics["rankers"]}
    texts = [RATIONALES, SHUFFLED, CONSTANT, MATCH, SEED_TEXT]
    assert list(rankers) == [BASELINE, *texts, MEAN_TEXT, *map(with_mean_text, texts)]
    for name in (RATIONALES, with_mean_text(RATIONALES)):
        assert rankers[name]["ndcg@10"] > rankers[BASELINE]["ndcg@10"] + 0.2
    # Chance is 10 / 40; noise columns may cost a little.
    assert rankers[BASELINE]["hit_rate@10"] == pytest.approx(0.25, abs=0.1)
    assert rankers[SHUFFLED]["hit_rate@10"] == pytest.approx(0.25, abs=0.1)
    assert rankers[CONSTANT]["hit_rate@10"] == pytest.approx(0.25, abs=0.1)
    assert rankers[MATCH]["hit_rate@10"] == pytest.approx(0.25, abs=0.1), "a user's columns meet no item's"
    assert rankers[MEAN_TEXT]["hit_rate@10"] == pytest.approx(0.25, abs=0.1), "histories here know no taste"
    assert metrics["trees"].keys() == rankers.keys()
    assert all(1 <= trees <= ROUNDS for trees in metrics["trees"].values())
    for row in metrics["differences"]:
        # Here the seed tells the taste, so any text of the seed's will do.
        if row["level"] == "all" and SEED_TEXT not in row["against"]:
            assert 0.03 < row["low"] < row["value"] < row["high"], (row["ranker"], row["against"])
    assert rankers[SEED_TEXT]["ndcg@10"] > rankers[BASELINE]["ndcg@10"] + 0.2


def test_metrics_say_what_was_measured(metrics, project):
    assert metrics["protocol"].startswith("leave-last-out, 299 users, 40 candidates each")
    assert (metrics["features_run"], metrics["pool_version"]) == ("run-1", "pool-1")
    assert metrics["coverage"] == pytest.approx(298 / 299)
    assert metrics["users"] == 299 == sum(metrics["users_by_activity_level"].values())
    for ranker in metrics["rankers"]:
        parts = [(metrics["users_by_activity_level"][level], m) for level, m in ranker["by_activity_level"].items()]
        assert [level for level in ranker["by_activity_level"]] == ["L1", "L2", "L3", "L4"]
        whole = sum(users * m["ndcg@10"] for users, m in parts) / 299
        assert whole == pytest.approx(ranker["ndcg@10"])
    rankers = {ranker["name"]: ranker for ranker in metrics["rankers"]}
    overall = [d for d in metrics["differences"] if d["level"] == "all"]
    assert len(overall) == 2 * (6 + 5)
    assert {d["against"]: d["role"] for d in overall if d["ranker"] == RATIONALES} == {
        BASELINE: "baseline",
        SHUFFLED: "control",
        CONSTANT: "control",
        MATCH: "control",
        SEED_TEXT: "control",
        MEAN_TEXT: "alternative",
    }
    for d in overall:
        assert d["value"] == pytest.approx(rankers[d["ranker"]][d["metric"]] - rankers[d["against"]][d["metric"]])


def test_users_who_inherit_are_matched_and_not_to_themselves(metrics):
    others = TOY.matches.filter(pl.col("seed_user_id") != pl.col("user_id"))["user_id"]
    tested = TOY.holdout["user_id"].unique()
    assert metrics["users_who_inherit"] == tested.is_in(others.implode()).sum()
    assert 0 < metrics["users_who_inherit"] < metrics["users"]
    assert {d["level"] for d in metrics["differences"]} == {"all", "L1", "L2", "L3", "L4", "inherit"}
    text = table(metrics)
    assert f"the {metrics['users_who_inherit']} users who inherit another's:" in text
    of = [d for d in metrics["differences"] if d["level"] == "inherit" and d["metric"] == "ndcg@10"]
    assert f"  {of[0]['value']:+.4f} over {BASELINE} (95% {of[0]['low']:+.4f}" in text


BASELINE_FEATURES = ["user_activity__interaction_count", "user_item_affinity__category_affinity"]


@pytest.fixture(scope="module")
def joined(project):
    store = open_store(project.repository)
    return store, join_features(store, *(ranking_queries(project, rank, candidates=3) for rank in (TRAIN, TEST)))


def test_shuffled_keeps_the_baseline_columns_and_deals_whole_rationales(joined):
    store, frames = joined
    control = deal(store, frames, shuffled(frames, seed=0))
    assert control.train.select(BASELINE_FEATURES).equals(frames.train.select(BASELINE_FEATURES))
    name = "user_rationale__similarity"
    of = [
        dict(frame.group_by("user_id").agg(pl.col(name).unique()).rows())
        for frame in (frames.train, control.train, control.test)
    ]
    assert all(len(values) == 1 for values in of[1].values()), "one rationale a user"
    assert of[1] == of[2], "the same permutation in train and test"
    assert sorted(map(str, of[0].values())) == sorted(map(str, of[1].values())), "dealt out, not drawn"
    assert sum(of[0][user] == of[1][user] for user in of[0]) < 15


def test_the_match_alone_has_everything_but_the_text(joined):
    _, frames = joined
    alone = match_alone(frames)
    texts = ["rationale_item_cross__rationale_item_cosine", COMPONENTS]
    for given, left in ((frames.train, alone.train), (frames.test, alone.test)):
        assert_frame_equal(left.drop(texts), given.drop(texts))
        assert left.select(texts).null_count().row(0) == (left.height, left.height)
        assert left.schema == given.schema
    matrix = rationale_features(frames.train).matrix(alone.test)
    names = rationale_features(frames.train).names
    assert not matrix[:, [n for n, name in enumerate(names) if "cosine" in name or "component" in name]].any()
    assert matrix[:, names.index("similarity")].any()


def test_constant_gives_everybody_with_a_rationale_that_of_the_most_central_user(joined):
    store, frames = joined
    control = deal(store, frames, constant(frames))
    name, components = "user_rationale__similarity", "user_rationale__rationale_components"
    for own, same in ((frames.train, control.train), (frames.test, control.test)):
        assert same.drop(cs.starts_with("user_rationale", "rationale_item_cross")).equals(
            own.drop(cs.starts_with("user_rationale", "rationale_item_cross"))
        )
        assert same[components].is_null().equals(own[components].is_null()), "who has none gets none"
        assert same.drop_nulls(name)[name].n_unique() == 1
        # With one text for all, the cosine with an item depends on the item alone.
        cosines = (
            same.drop_nulls(name)
            .group_by("item_id")
            .agg(pl.col("rationale_item_cross__rationale_item_cosine").n_unique())
        )
        assert cosines["rationale_item_cross__rationale_item_cosine"].to_list() == [1] * cosines.height
    (given,) = control.test[components].drop_nulls().unique().to_list()
    users = frames.test.unique("user_id").drop_nulls(components)[components].to_list()
    distance = [math.dist(user, np.mean(users, axis=0)) for user in users]
    assert math.dist(given, np.mean(users, axis=0)) == pytest.approx(min(distance))


@pytest.mark.parametrize("whose", ["own", "seed"])
def test_a_text_without_llm_is_the_mean_of_a_history_and_its_cosine_with_the_item(joined, project, whose):
    store, frames = joined
    control = dict(zip(("own", "seed"), texts_without_llm(project, store, frames), strict=True))[whose]
    assert control.train.select(BASELINE_FEATURES).equals(frames.train.select(BASELINE_FEATURES))
    item_text = dict(zip(TOY.items["item_id"], TOY.embeddings, strict=True))
    seed_of = dict(TOY.matches.select("user_id", "seed_user_id").iter_rows())
    for row in control.test.head(20).iter_rows(named=True):
        giver = row["user_id"] if whose == "own" else seed_of[row["user_id"]]
        history = TOY.interactions.filter(pl.col("user_id") == giver)["item_id"]
        mean = np.mean([item_text[item] for item in history], axis=0)
        expected = mean @ item_text[row["item_id"]] / np.linalg.norm(mean)
        assert row["rationale_item_cross__rationale_item_cosine"] == pytest.approx(expected, abs=1e-5)
    name, similarity = "user_rationale__rationale_components", "user_rationale__similarity"
    assert control.train[name].drop_nulls().list.len().unique().to_list() == [8]
    assert control.test.group_by("user_id").agg(pl.col(name).n_unique())[name].unique().to_list() == [1]
    assert control.test.schema == frames.test.schema
    if whose == "own":
        assert control.test["rationale_item_cross__has_rationale"].unique().to_list() == [1]
        assert control.test[similarity].null_count() == control.test.height
    else:  # one user of the toy world was matched with nobody
        has = control.test["rationale_item_cross__has_rationale"]
        assert has.equals(frames.test["rationale_item_cross__has_rationale"])
        assert control.test[similarity].equals(frames.test[similarity])
        unmatched = control.test.filter(pl.col("user_id") == "u298")
        assert unmatched[name].null_count() == unmatched.height > 0


def test_an_item_that_the_catalogue_does_not_have_is_near_to_no_text(joined):
    _, frames = joined
    rows = frames.test.head(3).with_columns(user_id=pl.lit("u0"), item_id=pl.Series(["i0", "not there", "i1"]))
    texts = MeanTexts(
        users=pl.Series(["u0"]),
        items=pl.Series(["i0", "i1"]),
        means=np.array([[0.6, 0.8]], dtype=np.float32),
        directions=np.array([[1, 0], [0, 1]], dtype=np.float32),
    )
    control = texts.in_place_of_rationales(Frames(rows, rows), pl.DataFrame({"user_id": ["u0"], "giver": ["u0"]}))
    cosines = control.test["rationale_item_cross__rationale_item_cosine"]
    assert cosines.to_list() == pytest.approx([0.6, 0.0, 0.8])


def test_beside_the_mean_text_a_ranker_has_the_columns_of_either_text(joined, project):
    store, frames = joined
    own, (mean, _) = rationale_features(frames.train), texts_without_llm(project, store, frames)
    features, joint = beside(own, frames, mean)
    assert len(features.names) == len(own.names) + 1 + 8
    matrix = dict(zip(features.names, features.matrix(joint.test).T, strict=True))
    alone = dict(zip(own.names, own.matrix(mean.test).T, strict=True))
    np.testing.assert_array_equal(matrix["mean_text_cosine"], alone["rationale_item_cosine"])
    np.testing.assert_array_equal(matrix["mean_text_component_3"], alone["rationale_component_3"])
    for name, column in zip(own.names, own.matrix(frames.test).T, strict=True):
        np.testing.assert_array_equal(matrix[name], column)


def test_the_saved_ranker_is_whole_or_not_there(project, tmp_path):
    ranker = load(project.models, required(project))
    assert ranker.features.service == "ranker_with_rationales"
    assert ranker.features.components == 8
    assert ranker.facts["features_run"] == "run-1"
    assert ranker.facts["protocol"].startswith("leave-last-out")
    assert not list(project.models.glob("*.partial"))
    with pytest.raises(ArtifactError, match="no xgboost has been trained"):
        load(tmp_path, {})


@pytest.mark.parametrize("option", [["--candidates", "1"], ["--candidates", "-5"], ["--max-users", "-1"]])
def test_sizes_that_measure_nothing_are_one_clear_error(project, capsys, option):
    assert main(["--project", str(project.root), *option]) == 1
    printed = capsys.readouterr()
    assert f"{option[0].strip('-').replace('-', '_')} = {option[1]}" in printed.err
    assert not printed.out


def test_a_folder_without_features_is_one_clear_error(tmp_path, capsys):
    assert main(["--project", str(tmp_path)]) == 1
    assert "published no features yet" in capsys.readouterr().err
