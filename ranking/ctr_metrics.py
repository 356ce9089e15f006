"""Measure click predictions: AUC, AUC within users, log loss, and intervals over resampled users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranking.metrics import Interval
from reland_features.errors import TableError

METRICS = ("auc", "user_auc", "log_loss")
_LEAST = 1e-7
_NEEDS = {
    "auc": "clicks and items passed over",
    "user_auc": "a user with both a click and an item passed over",
    "log_loss": "rows",
}


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
        """Return a metric with each user counted `weight` times, float [users]; once unless given.

        AUC needs rows of both labels, and AUC within users a user who has both. Weights may leave none of them:
        the metric is NaN then.

        Raises
        ------
        TableError
            The metric is undefined with every user counted once.
        """
        found = self._weighted(metric, np.ones(self.users) if weight is None else weight)
        if weight is None and np.isnan(found):
            raise self.undefined(metric)
        return found

    def undefined(self, metric: str) -> TableError:
        """Return the error for a metric that these rows do not define."""
        return TableError(
            f"{metric} is undefined: too few clicks, or too few items passed over",
            where="test rows",
            got=f"{int(self._label.sum()):,} clicks in {len(self._label):,} rows of {self.users:,} users",
            expected=_NEEDS[metric],
            hint="test on more users (--max-users 0), or on held-out events: --labels holdout",
        )

    def _weighted(self, metric: str, weight: np.ndarray) -> float:
        # 0 / 0 is what is left where weights leave no such rows.
        with np.errstate(invalid="ignore"):
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

    Both are measured on the same rows. The interval is of users, not of training seeds. Resamples that leave the
    metric undefined, such as one without a click, are left out: with few users who clicked, the interval is of
    those resamples that have one.

    Raises
    ------
    TableError
        The metric is undefined on the rows themselves (one label only, or for AUC within users no user with
        both), or in every resample.
    """

    def at(weight: np.ndarray | None) -> float:
        return mean(treatment, metric, weight) - mean(control, metric, weight)

    value, users = at(None), treatment[0].users
    rng = np.random.default_rng(seed)
    draws = [at(np.bincount(rng.integers(users, size=users), minlength=users).astype(float)) for _ in range(samples)]
    if np.isnan(draws).all():
        raise treatment[0].undefined(metric)
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


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
