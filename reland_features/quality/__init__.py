"""How good the rationales of a pool are, without a ranker: measures beside a constant and a shuffled baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reland_features.quality.bootstrap import Estimate, Statistic, difference, estimate, mean_of, pairwise_cosine
from reland_features.quality.samples import Measured, Sample, measure

__all__ = ["LABELS", "Estimate", "Measure", "Measured", "Quality", "assess", "distinct_n", "measure"]

LABELS = {
    "format_validity": "answers that can be used",
    "grounding": "names said that are new titles of the catalogue",
    "category_precision": "categories that occur in the seed's own future",
    "inherited_category_precision": "the same, of users who inherited theirs",
    "pairwise_cosine": "cosine of two rationales (lower: more distinct)",
    "duplicates": "rationales with the words of another",
    "distinct_1": "distinct words per word",
    "distinct_2": "distinct pairs of words per pair",
    "agreement_cosine": "cosine of own and retrieved rationale",
    "agreement_categories": "Jaccard of own and retrieved categories",
}


@dataclass(frozen=True)
class Measure:
    """One figure of a pool, its baselines, and the paired differences to them.

    Intervals of 95 % are by bootstrap over the `rows` that could be measured. `constant`, `shuffled` and the
    differences are None where the baseline says nothing (a shuffle changes no answer's form, for example).
    Distinct-n has no interval: a resample repeats words.
    """

    name: str
    unit: str
    rows: int
    pool: Estimate
    constant: Estimate | None = None
    shuffled: Estimate | None = None
    above_constant: Estimate | None = None
    above_shuffled: Estimate | None = None

    @property
    def label(self) -> str:
        """What the figure counts, in words."""
        return LABELS[self.name]


@dataclass(frozen=True)
class Quality:
    """All measures of one pool; `without_future` says why nothing is compared with held-out interactions."""

    pool_version: str
    seeds: int
    measures: tuple[Measure, ...]
    without_future: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the measures by name as JSON-able values, NaN as None."""
        stored = asdict(self)
        stored["measures"] = {m.name: {"label": m.label, **asdict(m)} for m in self.measures}
        return _without_nan(stored)


def assess(measured: Measured, seed: int = 0) -> Quality:
    """Put values, baselines and intervals together; the same `seed` draws the same resamples."""
    measures = [_of_sample(sample, seed) for sample in measured.samples]
    distinct = _distinctness(measured, seed)
    order = list(LABELS)
    ranked = sorted([*measures, *distinct], key=lambda m: order.index(m.name))
    return Quality(measured.pool_version, len(measured.seeds), tuple(ranked), measured.without_future)


def duplicates(words: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Return 1 for each rationale whose words another one has too, else 0."""
    counts = Counter(words)
    return np.array([float(counts[row] > 1) for row in words], dtype=np.float64)


def distinct_n(words: Sequence[tuple[str, ...]], n: int) -> float:
    """Return distinct n-grams / n-grams over all rationales (distinct-n of Li et al., 2016); NaN without any."""
    grams = [gram for row in words for gram in zip(*(row[k:] for k in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def _of_sample(sample: Sample, seed: int) -> Measure:
    own = mean_of(sample.pool)
    statistics: dict[str, Statistic] = {"pool": own}
    for name, values in (("constant", sample.constant), ("shuffled", sample.shuffled)):
        if values is not None:
            baseline = mean_of(values)
            # Where only one side was measured there is no pair.
            paired = np.where(np.isfinite(sample.pool) & np.isfinite(values), sample.pool - values, np.nan)
            statistics |= {name: baseline, f"above_{name}": mean_of(paired)}
    rows = int(np.isfinite(sample.pool).sum())
    found = estimate(statistics, len(sample.pool) if rows else 0, seed)
    return Measure(sample.name, sample.unit, rows, **found)


def _distinctness(measured: Measured, seed: int) -> list[Measure]:
    """Count how much the rationales differ; a constant answer's figures follow from its form."""
    rows, words = len(measured.seeds), measured.words
    same = mean_of(duplicates(words))
    cosine = pairwise_cosine(measured.units)
    one = mean_of(np.ones(rows))
    found = estimate(
        {
            "pairwise_cosine": cosine,
            "duplicates": same,
            "above_pairwise_cosine": difference(cosine, one),
            "above_duplicates": difference(same, one),
        },
        rows if rows > 1 else 0,
        seed,
    )
    certain = Estimate(1.0, 1.0, 1.0)
    measures = [
        Measure(name, "rationales", rows, found[name], constant=certain, above_constant=found[f"above_{name}"])
        for name in ("pairwise_cosine", "duplicates")
    ]
    typical = Counter(words).most_common(1)[0][0] if words else ()
    for n in (1, 2):
        value, constant = distinct_n(words, n), distinct_n([typical] * rows, n)
        gap = _point(value - constant)
        measures.append(Measure(f"distinct_{n}", "rationales", rows, _point(value), _point(constant), None, gap))
    return measures


def _point(value: float) -> Estimate:
    return Estimate(value, float("nan"), float("nan"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
