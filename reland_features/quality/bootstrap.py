"""95 % intervals by the bootstrap: every statistic is a function of how often each row was drawn."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
_LEVELS = (2.5, 97.5)
_CELLS = 1 << 22  # of a block of weights: 32 MiB

Name = TypeVar("Name", bound=Hashable)
Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Weights [b, n], how often each of n rows was drawn in each of b resamples → values [b]."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval (percentile bootstrap over rows)."""

    value: float
    low: float
    high: float


def mean_of(values: Floats) -> Statistic:
    """Return the mean of the rows that were measured; NaN marks the others."""
    measured = np.isfinite(values)
    filled = np.where(measured, values, 0.0)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # a resample without a measured row has no mean
            return (weights @ filled) / (weights @ measured.astype(np.float64))

    return statistic


def pairwise_cosine(units: Floats) -> Statistic:
    """Return the mean cosine of two different rows; `units` have length 1, [n, d].

    A row that is drawn twice does not meet itself: its cosine 1 would say nothing about the others.
    """

    def statistic(weights: Floats) -> Floats:
        totals = weights @ units
        own = (weights**2).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((totals**2).sum(axis=1) - own) / (weights.sum(axis=1) ** 2 - own)

    return statistic


def difference(one: Statistic, other: Statistic) -> Statistic:
    """Return one minus the other, paired: both see the same resamples of the same rows."""
    return lambda weights: one(weights) - other(weights)


def estimate(statistics: Mapping[Name, Statistic], rows: int, seed: int) -> dict[Name, Estimate]:
    """Return value and interval of each statistic over the same resamples of `rows` rows; without rows NaN."""
    if not rows:
        return dict.fromkeys(statistics, Estimate(np.nan, np.nan, np.nan))
    every = np.ones((1, rows))
    generator = np.random.default_rng(seed)
    drawn: dict[Name, list[Floats]] = {name: [] for name in statistics}
    block = max(1, min(RESAMPLES, _CELLS // rows))
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        picks = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        weights = np.bincount(picks.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)
        for name, statistic in statistics.items():
            drawn[name].append(statistic(weights))
    found = {}
    for name, statistic in statistics.items():
        values = np.concatenate(drawn[name])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, _LEVELS) if len(values) else (np.nan, np.nan)
        found[name] = Estimate(float(statistic(every)[0]), float(low), float(high))
    return found
