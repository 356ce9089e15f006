"""Ranking metrics against numbers worked out by hand, ties included."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ranking.metrics import paired_bootstrap, query_metrics


def metrics(scores: list[list[float]], k: int = 10):
    """The first score of each query is the positive's."""
    query = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    label = np.concatenate([[1] + [0] * (len(s) - 1) for s in scores])
    return query_metrics(query, label, np.concatenate(scores).astype(float), k=k)


def test_golden_positions():
    result = metrics([[9, 1, 2], [1, 5, 0], [0, 1, 2]], k=2)
    np.testing.assert_allclose(result.hit_rate, [1, 1, 0])
    np.testing.assert_allclose(result.ndcg, [1, 1 / np.log2(3), 0])


def test_ties_are_an_expectation_over_their_order():
    result = metrics([[1, 1, 1, 1]], k=2)
    assert result.hit_rate[0] == pytest.approx(2 / 4)
    assert result.ndcg[0] == pytest.approx((1 + 1 / np.log2(3)) / 4)
    result = metrics([[1, 2, 1]], k=2)  # second or third
    assert result.hit_rate[0] == pytest.approx(1 / 2)
    assert result.ndcg[0] == pytest.approx(1 / np.log2(3) / 2)


def test_ties_equal_the_mean_over_shuffled_orders():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, size=30)
    exact = metrics([scores.tolist()], k=5)
    hits, gains = [], []
    for _ in range(4000):
        jitter = scores + rng.uniform(0, 0.5, size=30)
        position = 1 + int((jitter > jitter[0]).sum())
        hits.append(position <= 5)
        gains.append((position <= 5) / np.log2(1 + position))
    assert exact.hit_rate[0] == pytest.approx(np.mean(hits), abs=0.03)
    assert exact.ndcg[0] == pytest.approx(np.mean(gains), abs=0.03)


@pytest.mark.parametrize(
    ("query", "label", "score", "says"),
    [
        ([0, 1, 0], [1, 1, 0], [1, 1, 1], "ascending"),
        ([0, 0], [1, 1], [1, 1], "exactly one positive"),
        ([0, 0, 1], [1, 0, 0], [1, 1, 1], "exactly one positive"),
        ([0, 0], [1, 0], [np.nan, 1], "NaN"),
    ],
)
def test_what_cannot_be_measured(query, label, score, says):
    with pytest.raises(ValueError, match=says):
        query_metrics(np.array(query), np.array(label), np.array(score, dtype=float))


def test_paired_bootstrap_covers_the_truth_and_uses_the_pairing():
    rng = np.random.default_rng(1)
    hard = rng.normal(size=500)  # queries differ much more than rankers do
    interval = paired_bootstrap(hard + 0.1 + 0.01 * rng.normal(size=500), hard)
    assert interval.low < 0.1 < interval.high
    assert interval.high - interval.low < 0.01, "unpaired, the interval would be 0.25 wide"
    # The normal approximation of the mean's interval.
    difference = rng.exponential(size=2000)
    interval = paired_bootstrap(difference, np.zeros(2000))
    half = 1.96 * difference.std() / np.sqrt(2000)
    assert (interval.low, interval.high) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.01
    )


def test_paired_bootstrap_of_equal_rankers_is_zero():
    interval = paired_bootstrap(np.ones(5), np.ones(5))
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def bootstrap_by_loop(difference, samples):
    """Return the interval of samples that are drawn one after the other."""
    rng = np.random.default_rng(0)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(samples)]
    return difference.mean(), *np.quantile(means, [(1 - 0.95) / 2, 1 - (1 - 0.95) / 2])


@pytest.mark.parametrize("block", [1, 1000, 1 << 20])
@pytest.mark.parametrize("queries, samples", [(1, 50), (7, 1), (301, 50), (301, 2000), (1501, 130)])
def test_paired_bootstrap_draws_as_many_samples_as_asked_in_whatever_blocks(queries, samples, block, monkeypatch):
    monkeypatch.setattr("ranking.metrics._DRAWS_PER_BLOCK", block)
    difference = np.random.default_rng(3).normal(size=queries)
    interval = paired_bootstrap(difference, np.zeros(queries), samples=samples)
    assert (interval.value, interval.low, interval.high) == bootstrap_by_loop(difference, samples)


def test_paired_bootstrap_gives_the_published_digits():
    difference = np.random.default_rng(3).normal(size=301)
    rng = np.random.default_rng(0)  # as it was drawn for docs/results: a hundred samples at once
    means = np.concatenate([difference[rng.integers(301, size=(100, 301))].mean(axis=1) for _ in range(20)])
    interval = paired_bootstrap(difference, np.zeros(301))
    assert [interval.low, interval.high] == np.quantile(means, [(1 - 0.95) / 2, 1 - (1 - 0.95) / 2]).tolist()


def test_paired_bootstrap_does_not_hold_many_samples_of_many_queries():
    difference = np.random.default_rng(3).normal(size=200_000)
    tracemalloc.start()
    try:
        paired_bootstrap(difference, np.zeros(len(difference)), samples=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * difference.nbytes, "a hundred samples at once are 200 times as much"


def test_paired_bootstrap_without_a_sample_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        paired_bootstrap(np.ones(5), np.ones(5), samples=0)
