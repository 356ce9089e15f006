"""Queries hold the right positive and nothing the user has seen."""

from __future__ import annotations

import dataclasses
import shutil

import polars as pl
import pytest

from ranking.dataset import TEST, TRAIN, ranking_queries
from ranking.project import RankingProject
from reland_features.errors import ConfigError, FeatureStoreError, TableError


@pytest.mark.parametrize("rank", [TEST, TRAIN])
@pytest.mark.parametrize("candidates", [20, None])
def test_queries(project, rank, candidates):
    queries = ranking_queries(project, rank, candidates=candidates)
    frame = queries.frame
    holdout = pl.read_parquet(project.mart("holdout"))
    positives = frame.filter(pl.col("label") == 1).select("user_id", "item_id")
    assert (
        positives.rows()
        == holdout.filter(pl.col("holdout_rank") == rank).select("user_id", "item_id").sort("user_id").rows()
    )
    assert frame["query"].is_sorted()
    assert (frame["event_timestamp"] == project.as_of).all()
    assert not frame.select("query", "item_id").is_duplicated().any()
    events = pl.concat(
        [pl.read_parquet(project.mart(m)).select("user_id", "item_id") for m in ("interactions", "holdout")]
    )
    assert frame.filter(pl.col("label") == 0).join(events, on=["user_id", "item_id"], how="semi").height == 0
    sizes = frame.group_by("query").len()["len"]
    if candidates:
        assert set(sizes) == {20}
        assert "20 candidates" in queries.protocol
    else:
        seen = events.unique().group_by("user_id").len()
        expected = positives.join(seen, on="user_id").select(60 + 1 - pl.col("len"))
        assert sorted(sizes) == sorted(expected.to_series())
        assert "full ranking" in queries.protocol


def test_negatives_are_uniform(project):
    drawn = pl.concat(
        [
            ranking_queries(project, TEST, candidates=11, seed=seed).frame.filter(pl.col("label") == 0)
            for seed in range(40)
        ]
    )
    events = pl.concat(
        [pl.read_parquet(project.mart(m)).select("user_id", "item_id") for m in ("interactions", "holdout")]
    )
    # An item is drawn in proportion to how many users may be shown it, each weighted by 1 / what is left to them.
    left = events.unique().group_by("user_id").agg("item_id", left=60 - pl.len())
    shares = {item: 0.0 for item in pl.read_parquet(project.mart("items"))["item_id"]}
    for items, count in left.select("item_id", "left").iter_rows():
        for item in shares.keys() - set(items):
            shares[item] += 40 * 10 / count
    counts = dict(drawn.group_by("item_id").len().iter_rows())
    statistic = sum((counts[item] - expected) ** 2 / expected for item, expected in shares.items())
    assert statistic < 100, "chi-square of 59 degrees of freedom; 99.9 % lie below 98"


def test_the_same_sample_of_users_is_trained_and_tested_on(project):
    train = ranking_queries(project, TRAIN, candidates=5, max_users=50, seed=3)
    test = ranking_queries(project, TEST, candidates=5, max_users=50, seed=3)
    assert train.users.to_list() == test.users.to_list()
    assert len(test.users) == 50
    again = ranking_queries(project, TEST, candidates=5, max_users=50, seed=3)
    assert again.frame.equals(test.frame)
    assert ranking_queries(project, TEST, candidates=5, max_users=50, seed=4).users.to_list() != test.users.to_list()


@pytest.mark.parametrize(
    ("sizes", "got", "expected"),
    [
        ({"candidates": 1}, "candidates = 1", "candidates from 2"),
        ({"candidates": 0}, "candidates = 0", "candidates from 2"),
        ({"candidates": 5, "max_users": 0}, "max_users = 0", "max_users from 1"),
        (
            {"candidates": -5, "max_users": -1},
            "candidates = -5, max_users = -1",
            "candidates from 2, max_users from 1",
        ),
    ],
)
def test_queries_in_which_every_ranker_would_be_perfect_are_refused(project, sizes, got, expected):
    with pytest.raises(ConfigError, match="nothing to measure") as raised:
        ranking_queries(project, TEST, **sizes)
    assert (raised.value.got, raised.value.expected) == (got, expected)


def test_two_candidates_are_enough(project):
    frame = ranking_queries(project, TEST, candidates=2, max_users=20).frame
    assert frame.group_by("query").len()["len"].to_list() == [2] * 20


def test_nothing_held_out_or_nothing_published(project, tmp_path):
    marts = tmp_path / "marts"
    shutil.copytree(project.marts, marts)
    pl.read_parquet(marts / "holdout.parquet").clear().write_parquet(marts / "holdout.parquet")
    with pytest.raises(TableError, match="no events are held out"):
        ranking_queries(dataclasses.replace(project, marts=marts), TEST, candidates=5)
    with pytest.raises(FeatureStoreError, match="published no features yet"):
        RankingProject.open(tmp_path)


def test_the_positive_is_anywhere_in_its_query(project):
    """A positive that is always first wins every tie of a metric that sorts stably, XGBoost's among them."""
    frame = ranking_queries(project, TRAIN, candidates=20).frame
    position = frame.with_columns(n=pl.int_range(pl.len()).over("query")).filter(pl.col("label") == 1)["n"]
    assert position.n_unique() > 5
    assert 5 < position.mean() < 14
    again = ranking_queries(project, TRAIN, candidates=20).frame
    assert again.equals(frame)
