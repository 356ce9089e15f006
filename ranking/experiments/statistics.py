"""Tell a difference between two variants from chance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.metrics import paired_bootstrap


@dataclass(frozen=True)
class Comparison:
    """A mean difference, paired by user, and how sure it is.

    Parameters
    ----------
    value, low, high : float
        Mean difference and its 95 % bootstrap interval over users.
    relative : float
        Difference over the control's mean; NaN where that is 0.
    p_ttest, p_wilcoxon : float
        Two-sided paired t-test and Wilcoxon signed-rank test (its normal approximation) over users, each user's
        mean over seeds.
    p_seeds : float
        Two-sided paired t-test over random seeds, each seed's mean over users; NaN below two seeds.
    seeds : int
        How many random seeds both sides have.
    """

    value: float
    low: float
    high: float
    relative: float
    p_ttest: float
    p_wilcoxon: float
    p_seeds: float
    seeds: int


def compare(treatment: npt.ArrayLike, control: npt.ArrayLike) -> Comparison:
    """Compare two variants that were run with the same random seeds on the same users.

    The interval and the tests over users assume that users are independent, and take the trained models as
    given; only the test over seeds sees that another training would have ended elsewhere.

    Parameters
    ----------
    treatment, control : array of float [seeds, users]
        A metric of each user in each run.

    Raises
    ------
    ValueError
        The shapes differ or there is no user.
    """
    first, second = np.asarray(treatment, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise ValueError(f"variants to compare have shapes {first.shape} and {second.shape}")
    users, others = first.mean(axis=0), second.mean(axis=0)
    interval = paired_bootstrap(users, others)
    mean = float(others.mean())
    return Comparison(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        relative=interval.value / mean if mean else float("nan"),
        p_ttest=_ttest(users, others),
        p_wilcoxon=_wilcoxon(users, others),
        p_seeds=_ttest(first.mean(axis=1), second.mean(axis=1)),
        seeds=len(first),
    )


def _ttest(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import ttest_rel

    if len(first) < 2:
        return float("nan")
    if not (first != second).any():  # nothing to test, and scipy would divide 0 by 0
        return 1.0
    with warnings.catch_warnings():
        # One difference again and again: its spread is a rounding error, and p next to 0 whatever that is.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return float(ttest_rel(first, second).pvalue)


def _wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(first, second, method="asymptotic").pvalue) if (first != second).any() else 1.0
