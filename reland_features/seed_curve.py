"""Say how many seed users are worth their tokens: similarity and coverage against the number of seeds.

Every point of the curve is measured on samples of the project's own sampler (section 3.1.1) with that number as its
budget, so it is what a run with that number has: the first draw is that run's own sample, the others show the spread.
Nothing is asked of an LLM; behaviour vectors are all that is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.config import Seeds
from reland_features.encoders.base import BehaviorVectors
from reland_features.seeds import UserClustering, sample_seeds

FRACTIONS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4)
DRAWS = 3
_BLOCK = 4096


@dataclass(frozen=True)
class Advice:
    """A number of seeds, the rule that gave it (knee or threshold), and why, in words."""

    seeds: int
    rule: str
    reason: str


def seed_counts(n_users: int, limit: int, configured: int) -> list[int]:
    """Return the numbers to look at: `FRACTIONS` of the users up to a limit, and the configured one."""
    counts = {max(1, round(fraction * n_users)) for fraction in FRACTIONS}
    return sorted({count for count in counts if count <= limit} | {min(configured, limit)})


def similarity_curve(
    vectors: BehaviorVectors,
    counts: npt.ArrayLike,
    numbers: Sequence[int],
    settings: Seeds,
    *,
    seed: int,
    draws: int = DRAWS,
    covered_at: float = 0.8,
    among: Collection[str] | None = None,
) -> pl.DataFrame:
    """Measure how near users are to their best seed (Eq. 3) for several numbers of seeds.

    Parameters
    ----------
    vectors, counts, among
        As for `sample_seeds`.
    numbers : sequence of int
        Budgets, ascending.
    settings : Seeds
        The sampler and its clusters.
    seed : int
        The project's; the first draw is that of a run.
    draws : int
        Samples per number.
    covered_at : float
        A user is covered from this cosine on.

    Returns
    -------
    polars.DataFrame
        A row per number. seeds; share (of all users); over users, then averaged over draws: mean, median, q05 (5 %
        quantile) of the cosine to the best seed, coverage (share of users), loss (1 − mean: what a seed for
        everybody would still add); mean_spread and coverage_spread (standard deviation over draws, 0 for one);
        gain_per_100 (what the mean gained per 100 seeds since the row before; null in the first). Seeds are users
        too, at cosine 1; others is the mean of those who are none (NaN where all are).
    """
    unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    row_of = {user: row for row, user in enumerate(vectors.user_ids)}
    clustering = UserClustering(vectors.vectors)
    measured = np.empty((draws, len(numbers), 4))
    for draw in range(draws):
        for column, number in enumerate(numbers):
            sample = sample_seeds(
                vectors,
                counts,
                budget=number,
                clusters=settings.clusters,
                generator=np.random.default_rng([seed, draw] if draw else seed),
                among=among,
                sampler=settings.sampler,
                clustering=clustering,
            )
            best = _best_cosine(unit, unit[[row_of[user] for user in sample.seeds["user_id"]]])
            covered = float((best >= covered_at).mean())
            measured[draw, column] = float(best.mean()), *np.quantile(best, [0.5, 0.05]), covered
    mean, spread = measured.mean(axis=0), measured.std(axis=0, ddof=1 if draws > 1 else 0)
    gains = np.diff(mean[:, 0]) / np.diff(numbers) * 100
    return pl.DataFrame(
        {
            "seeds": list(numbers),
            "share": np.array(numbers) / len(unit),
            "mean": mean[:, 0],
            "mean_spread": spread[:, 0],
            "others": _others(mean[:, 0], np.array(numbers) / len(unit)),
            "median": mean[:, 1],
            "q05": mean[:, 2],
            "coverage": mean[:, 3],
            "coverage_spread": spread[:, 3],
            "loss": 1 - mean[:, 0],
            "gain_per_100": [None, *gains.tolist()],
        },
        schema_overrides={"gain_per_100": pl.Float64},
    )


def knee(numbers: npt.ArrayLike, values: npt.ArrayLike) -> int:
    """Return the position of the knee of a rising curve that flattens: Kneedle (Satopää et al., 2011).

    With both axes scaled to [0, 1] it is the point farthest above the straight line from the first point to the
    last. So it depends on where the curve ends. The means of several draws are smooth: no spline is fitted.
    """
    x, y = np.asarray(numbers, dtype=np.float64), np.asarray(values, dtype=np.float64)
    height = (y - y[0]) / ((y[-1] - y[0]) or 1.0)
    width = (x - x[0]) / ((x[-1] - x[0]) or 1.0)
    return int(np.argmax(height - width))


def advise(curve: pl.DataFrame, min_marginal: float | None = None) -> Advice:
    """Recommend a number of seeds.

    Parameters
    ----------
    curve : polars.DataFrame
        Of `similarity_curve`.
    min_marginal : float, optional
        `seeds.min_marginal_similarity`: the number before the first step that gains less per 100 seeds. Without
        it, the knee.
    """
    seeds, mean = curve["seeds"].to_list(), curve["mean"].to_list()
    gains = curve["gain_per_100"].to_list()
    if min_marginal is None:
        at = knee(seeds, mean)
        before, after = _slope(curve, 0, at), _slope(curve, at, len(seeds) - 1)
        reason = (
            f"the knee of the curve from {seeds[0]:,} to {seeds[-1]:,} seeds (Kneedle): up to it, 100 seeds add "
            f"{before:.4f} to the mean similarity, beyond it {after:.4f}"
        )
        return Advice(seeds[at], "knee", reason)
    for at in range(1, len(seeds)):
        if gains[at] < min_marginal:
            reason = (
                f"from {seeds[at - 1]:,} to {seeds[at]:,} seeds, 100 of them add {gains[at]:.4f} to the mean "
                f"similarity, less than {min_marginal:g}"
            )
            return Advice(seeds[at - 1], "threshold", reason)
    reason = (
        f"no step up to {seeds[-1]:,} seeds adds less than {min_marginal:g} per 100 seeds to the mean similarity: "
        "more of them may be worth it"
    )
    return Advice(seeds[-1], "threshold", reason)


def affordable_seeds(
    vectors: BehaviorVectors,
    counts: npt.ArrayLike,
    settings: Seeds,
    *,
    limit: int,
    seed: int,
    among: Collection[str] | None = None,
) -> Advice:
    """Return how many of at most `limit` seeds are worth it by `seeds.min_marginal_similarity`.

    The unit is the seed, not the token: every seed takes about the same tokens, and the number must not depend on
    what a ledger or an engine says, so that the same tables give the same seeds.
    """
    numbers = seed_counts(len(vectors.user_ids), limit, limit)
    curve = similarity_curve(vectors, counts, numbers, settings, seed=seed, among=among)
    return advise(curve, settings.min_marginal_similarity)


def _others(mean: np.ndarray, share: np.ndarray) -> npt.NDArray[np.float64]:
    left = 1.0 - share
    return np.divide(mean - share, left, out=np.full(len(mean), np.nan), where=left > 0)


def _slope(curve: pl.DataFrame, start: int, stop: int) -> float:
    rise = curve["mean"][stop] - curve["mean"][start]
    return 100 * rise / max(curve["seeds"][stop] - curve["seeds"][start], 1)


def _best_cosine(users: np.ndarray, seeds: np.ndarray) -> npt.NDArray[np.float64]:
    best = np.empty(len(users))
    for start in range(0, len(users), _BLOCK):
        best[start : start + _BLOCK] = (users[start : start + _BLOCK] @ seeds.T).max(axis=1)
    return np.clip(best, -1.0, 1.0)
