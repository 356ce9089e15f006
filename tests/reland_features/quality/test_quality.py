"""Golden numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from reland_features.quality import assess, distinct_n, duplicates
from reland_features.quality.bootstrap import difference, estimate, mean_of, pairwise_cosine
from reland_features.quality.comparison import paired_differences
from reland_features.quality.samples import Measured, Sample, derangement, jaccard, nearest_other, precision

NAN = float("nan")


def measured(ids=("a", "b", "c"), values=(1.0, 0.5, NAN), version="v1", units=None, words=None) -> Measured:
    pool = np.array(values, dtype=np.float64)
    sample = Sample("category_precision", "rationales", ids, pool, np.array([0.5, 0.5, 0.5]), np.array([0.0, 1.0, 0.0]))
    units = np.eye(3) if units is None else np.array(units, dtype=np.float64)
    return Measured(version, (sample,), ids, units, words or (("x", "y"), ("x", "y"), ("z",)))


def test_shares_by_hand():
    assert precision({"Drama", "War", "Crime"}, {"War", "Drama", "Horror"}) == pytest.approx(2 / 3)
    assert jaccard({"Drama", "War"}, {"War", "Crime"}) == pytest.approx(1 / 3)
    assert np.isnan([precision((), {"War"}), precision({"War"}, ()), jaccard((), ())]).all()


def test_distinctness_by_hand():
    words = (("a", "b", "a"), ("a", "b"), ("a", "b"))
    assert distinct_n(words, 1) == pytest.approx(2 / 7)  # a b of seven words
    assert distinct_n(words, 2) == pytest.approx(2 / 4)  # ab ba of ab ba ab ab
    assert duplicates(words).tolist() == [0, 1, 1]


def test_the_mean_pairwise_cosine_is_over_different_rows_only():
    units = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    every = np.ones((1, 3))
    assert pairwise_cosine(units)(every)[0] == pytest.approx((0 + 0.6 + 0.8) / 3)
    drawn_twice = np.array([[2.0, 1.0, 0.0]])  # a row does not meet itself
    assert pairwise_cosine(units)(drawn_twice)[0] == pytest.approx(0.0)


def test_the_nearest_other_seed_is_not_the_seed_itself():
    angles = np.deg2rad([0, 10, 60, 75])
    units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert nearest_other(units).tolist() == [1, 0, 3, 2]
    assert nearest_other(np.array([[1.0, 0.0]] * 3)).tolist() == [1, 0, 0]  # ties: the first other one


def test_nobody_keeps_the_own_place_in_a_shuffle():
    for size in (2, 3, 50):
        order = derangement(size, np.random.default_rng(1))
        assert sorted(order) == list(range(size))
        assert not (order == np.arange(size)).any()


def test_rows_that_were_not_measured_do_not_count():
    assert estimate({"mean": mean_of(np.array([1.0, 0.0, NAN]))}, 3, seed=0)["mean"].value == 0.5


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(size=2000)
    found = estimate({"mean": mean_of(values)}, 2000, seed=0)["mean"]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.1 * half)


def test_differences_are_paired():
    """Two measures that differ by a constant have a difference without any spread."""
    values = np.random.default_rng(0).normal(size=50)
    found = estimate({"gap": difference(mean_of(values + 1), mean_of(values))}, 50, seed=0)["gap"]
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))


def test_a_pool_stands_beside_its_baselines():
    quality = assess(measured())
    own = {measure.name: measure for measure in quality.measures}
    first = own["category_precision"]
    assert (first.rows, first.pool.value) == (2, 0.75)
    assert first.constant.value == 0.5
    assert first.shuffled.value == pytest.approx(1 / 3)
    assert first.above_constant.value == pytest.approx(0.25)  # (.5 + 0) / 2, over the measured rows
    assert first.above_shuffled.value == pytest.approx(0.25)  # (1 - .5) / 2
    assert (own["pairwise_cosine"].pool.value, own["pairwise_cosine"].constant.value) == (0.0, 1.0)
    assert own["duplicates"].pool.value == pytest.approx(2 / 3)
    assert own["distinct_1"].pool.value == pytest.approx(3 / 5)
    assert own["distinct_1"].constant.value == pytest.approx(2 / 6)
    assert quality.as_dict()["measures"]["distinct_1"]["pool"] == {"value": 0.6, "low": None, "high": None}


def test_the_same_seed_gives_the_same_intervals():
    assert assess(measured(), seed=3).as_dict() == assess(measured(), seed=3).as_dict()


def test_two_pools_are_compared_on_the_rows_that_both_have():
    words = (("x", "y"), ("x", "w"), ("z",))
    other = measured(("b", "c", "d"), (1.0, 0.4, 0.0), "v2", [[1, 0, 0], [1, 0, 0], [0, 0, 1]], words)
    found = paired_differences(measured(), other)
    rows, gap = found["category_precision"]
    assert (rows, gap.value) == (1, 0.5)  # c was not measured in the first, a and d are in one only
    rows, gap = found["pairwise_cosine"]
    assert (rows, gap.value) == (2, 1.0)  # b and c: orthogonal before, the same after
    assert found["distinct_1"][1].value == pytest.approx(3 / 4 - 1)  # x y w of x y x w, after x y z of x y z: 1
