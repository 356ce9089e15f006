"""Measure rankings of one positive per query, and the difference between two rankers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DRAWS_PER_BLOCK = 1 << 20


@dataclass(frozen=True)
class QueryMetrics:
    """HR@k and NDCG@k of each query, float64 [queries]."""

    hit_rate: np.ndarray
    ndcg: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean difference and its bootstrap interval."""

    value: float
    low: float
    high: float


def query_metrics(query: np.ndarray, label: np.ndarray, score: np.ndarray, k: int = 10) -> QueryMetrics:
    """Return each query's expected HR@k and NDCG@k.

    Trees give many equal scores. Items tied with the positive are taken to come in random order, so the
    figures are expectations over that order and do not depend on how rows happen to be sorted.

    Parameters
    ----------
    query : numpy.ndarray
        int [n], ascending.
    label : numpy.ndarray
        int [n], exactly one 1 in each query.
    score : numpy.ndarray
        float [n], higher is better.

    Raises
    ------
    ValueError
        Queries are not ascending, a query has not exactly one positive, or a score is NaN.
    """
    if len(query) and (np.diff(query) < 0).any():
        raise ValueError("queries are not ascending")
    if np.isnan(score).any():
        raise ValueError("a score is NaN")
    _, index = np.unique(query, return_inverse=True)
    queries = int(index.max()) + 1 if len(index) else 0
    positive = label == 1
    if (np.bincount(index[positive], minlength=queries) != 1).any():
        raise ValueError("each query has exactly one positive")
    own = np.empty(queries)
    own[index[positive]] = score[positive]
    above = np.bincount(index, weights=score > own[index], minlength=queries).astype(int)
    tied = np.bincount(index, weights=(score == own[index]) & ~positive, minlength=queries).astype(int)
    # Positions above + 1 .. above + 1 + tied are equally likely; those beyond k count 0.
    gain = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    first, last = np.minimum(above, k), np.minimum(above + 1 + tied, k)
    return QueryMetrics((last - first) / (1 + tied), (gain[last] - gain[first]) / (1 + tied))


def paired_bootstrap(
    treatment: np.ndarray, control: np.ndarray, *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean difference of paired values and its percentile interval over resampled queries.

    Assumes that queries are independent; both rankers are measured on the same ones.

    Parameters
    ----------
    treatment, control : numpy.ndarray
        float [n], a metric of each query. Without any query the interval is NaN.
    samples : int
        How often n queries are drawn of the n; takes O(samples + n) memory.
    level : float
        Share of the samples' means inside the interval.

    Raises
    ------
    ValueError
        Fewer than one sample is asked for.
    """
    if samples < 1:
        raise ValueError(f"a bootstrap takes at least one sample, not {samples}")
    difference = np.asarray(treatment, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    if not len(difference):
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    # In blocks to bound memory. A generator draws the same indices in the same order whatever the blocks are.
    means = np.empty(samples)
    rows = max(1, _DRAWS_PER_BLOCK // len(difference))
    for first in range(0, samples, rows):
        block = means[first : first + rows]
        block[:] = difference[rng.integers(len(difference), size=(len(block), len(difference)))].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))
