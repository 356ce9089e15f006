"""Measure click predictions: AUC, AUC within users, log loss, and intervals over resampled users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranking.metrics import Interval

METRICS = ("auc", "user_auc", "log_loss")
_LEAST = 1e-7


class Measured:
    """One set of predictions, sorted once so that resampling users costs one pass.

    Parameters
    ----------
    label : numpy.ndarray
        [n], 1 or 0.
    probability : numpy.ndarray
        float [n].
    group : numpy.ndarray
        int [n], the user of each row, 0 to users - 1.
    """

    def __init__(self, label: np.ndarray, probability: np.ndarray, group: np.ndarray) -> None:
        if not np.isfinite(probability).all():
            raise ValueError("a prediction is not finite")
        _, group = np.unique(group, return_inverse=True)
        self.users = int(group.max()) + 1
        order = np.argsort(probability, kind="stable")
        self._label, self._group = label[order].astype(np.float64), group[order]
        ordered = probability[order]
        # Rows of equal probability are one step of the curve.
        self._steps = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        clipped = np.clip(probability.astype(np.float64), _LEAST, 1 - _LEAST)
        losses = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
        self._loss = np.bincount(group, weights=losses, minlength=self.users)
        self._rows = np.bincount(group, minlength=self.users)
        self._user_auc = _auc_by_user(label, probability, group, self.users)

    def value(self, metric: str, weight: np.ndarray | None = None) -> float:
        """Return a metric with each user counted `weight` times, float [users]; once unless given."""
        weight = np.ones(self.users) if weight is None else weight
        if metric == "log_loss":
            return float(self._loss @ weight / (self._rows @ weight))
        if metric == "user_auc":
            there = ~np.isnan(self._user_auc)
            return float(self._user_auc[there] @ weight[there] / weight[there].sum())
        rows = weight[self._group]
        clicks = np.add.reduceat(rows * self._label, self._steps)
        passed = np.add.reduceat(rows * (1 - self._label), self._steps)
        below = np.cumsum(passed) - passed
        return float(clicks @ (below + passed / 2) / (clicks.sum() * passed.sum()))


def difference(
    treatment: Sequence[Measured], control: Sequence[Measured], metric: str, *, samples: int = 200, seed: int = 0
) -> Interval:
    """Return treatment minus control, each a mean over training seeds, and its 95 % interval over resampled users.

    Both are measured on the same rows. The interval is of users, not of training seeds.
    """

    def at(weight: np.ndarray | None) -> float:
        return mean(treatment, metric, weight) - mean(control, metric, weight)

    users = treatment[0].users
    rng = np.random.default_rng(seed)
    draws = [at(np.bincount(rng.integers(users, size=users), minlength=users).astype(float)) for _ in range(samples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(at(None), float(low), float(high))


def mean(measured: Sequence[Measured], metric: str, weight: np.ndarray | None = None) -> float:
    """Return the mean of a metric over several trainings."""
    return float(np.mean([one.value(metric, weight) for one in measured]))


def _auc_by_user(label: np.ndarray, probability: np.ndarray, group: np.ndarray, users: int) -> np.ndarray:
    """Return each user's AUC by rank sums, float64 [users]; NaN where a user has labels of one kind."""
    order = np.lexsort((probability, group))
    label, probability, group = label[order], probability[order], group[order]
    new = np.append(True, (group[1:] != group[:-1]) | (probability[1:] != probability[:-1]))
    step = np.cumsum(new) - 1
    size = np.bincount(step)
    first = np.cumsum(size) - size
    # Tied rows share the mean of their ranks.
    rank = (first + (size + 1) / 2)[step] - np.searchsorted(group, group)
    clicks = np.bincount(group, weights=label, minlength=users)
    passed = np.bincount(group, minlength=users) - clicks
    ranks = np.bincount(group, weights=rank * label, minlength=users)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks - clicks * (clicks + 1) / 2) / (clicks * passed)
