"""Compare two pools: which rationales came, went or changed, and what that did to the measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reland_features.curation import mark
from reland_features.finished_pool import FinishedPool
from reland_features.quality import Quality, assess, distinct_n, duplicates
from reland_features.quality.bootstrap import Estimate, difference, estimate, mean_of, pairwise_cosine
from reland_features.quality.samples import Measured


@dataclass(frozen=True)
class Change:
    """A seed whose rationale is not the same in both pools; `kind` is added, removed, blocked or changed."""

    seed_user_id: str
    kind: str
    before: str
    after: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What differs between pools A and B.

    Parameters
    ----------
    a, b : Quality
        Of the whole pools.
    changes : tuple of Change
        By kind, then seed.
    unchanged : int
        Seeds with the same words in both.
    differences : mapping of str to (int, Estimate)
        By measure: rows that both pools measure (seeds that both have, users matched in both), and B minus A over
        them with its interval.
    """

    a: Quality
    b: Quality
    changes: tuple[Change, ...]
    unchanged: int
    differences: dict[str, tuple[int, Estimate]]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-able values."""
        return {
            "a": self.a.as_dict(),
            "b": self.b.as_dict(),
            "changes": [asdict(change) for change in self.changes],
            "unchanged": self.unchanged,
            "differences": {
                name: {"rows": rows, **{k: v if np.isfinite(v) else None for k, v in asdict(found).items()}}
                for name, (rows, found) in self.differences.items()
            },
        }


def compare(a: FinishedPool, b: FinishedPool, measured: tuple[Measured, Measured], seed: int = 0) -> Comparison:
    """Compare two finished pools, of one project or of two.

    Parameters
    ----------
    measured : tuple of Measured
        `quality.measure` of each.
    seed : int
        Of the resamples.
    """
    changes, unchanged = changes_between(a, b)
    return Comparison(
        assess(measured[0], seed), assess(measured[1], seed), changes, unchanged, paired_differences(*measured, seed)
    )


def changes_between(a: FinishedPool, b: FinishedPool) -> tuple[tuple[Change, ...], int]:
    """Return which rationales differ between two pools, and how many are the same in both."""
    before, after = _words(a), _words(b)
    changes = []
    for seed in sorted(before.keys() | after.keys()):
        old, new = before.get(seed, ""), after.get(seed, "")
        if old == new:
            continue
        decision = b.curation.replaced.get(seed)
        if seed in after:
            kind = "changed" if seed in before else "added"
        else:
            decision = b.curation.blocked.get(seed)
            kind = "blocked" if decision else "removed"
        changes.append(Change(seed, kind, old, new, mark(decision) if decision else ""))
    kinds = ("blocked", "removed", "added", "changed")
    changes.sort(key=lambda change: (kinds.index(change.kind), change.seed_user_id))
    same = sum(before[seed] == after[seed] for seed in before.keys() & after.keys())
    return tuple(changes), same


def paired_differences(a: Measured, b: Measured, seed: int = 0) -> dict[str, tuple[int, Estimate]]:
    """Return B minus A of every measure that both have, over the rows that both have."""
    found: dict[str, tuple[int, Estimate]] = {}
    others = {sample.name: sample for sample in b.samples}
    for sample in a.samples:
        if sample.name not in others:
            continue
        other = others[sample.name]
        value_of = dict(zip(other.ids, other.pool, strict=True))
        pairs = [(own, value_of[row]) for row, own in zip(sample.ids, sample.pool, strict=True) if row in value_of]
        gaps = np.array([theirs - own for own, theirs in pairs], dtype=np.float64)
        rows = int(np.isfinite(gaps).sum())
        found[sample.name] = rows, estimate({"gap": mean_of(gaps)}, len(gaps) if rows else 0, seed)["gap"]
    row_a, row_b = ({each: row for row, each in enumerate(one.seeds)} for one in (a, b))
    common = sorted(row_a.keys() & row_b.keys())
    rows_a, rows_b = [row_a[each] for each in common], [row_b[each] for each in common]
    words_a, words_b = [a.words[row] for row in rows_a], [b.words[row] for row in rows_b]
    gaps_of = {
        "pairwise_cosine": difference(pairwise_cosine(b.units[rows_b]), pairwise_cosine(a.units[rows_a])),
        "duplicates": mean_of(duplicates(words_b) - duplicates(words_a)),
    }
    spread = estimate(gaps_of, len(common) if len(common) > 1 else 0, seed)
    found |= {name: (len(common), each) for name, each in spread.items()}
    for n in (1, 2):
        gap = distinct_n(words_b, n) - distinct_n(words_a, n)
        found[f"distinct_{n}"] = len(common), Estimate(gap, float("nan"), float("nan"))
    return found


def _words(finished: FinishedPool) -> dict[str, str]:
    rows = finished.pool.frame.select("seed_user_id", "summary", "categories", "items").iter_rows()
    return {seed: _text(summary, categories, items) for seed, summary, categories, items in rows}


def _text(summary: str, categories: Sequence[str], items: Sequence[str]) -> str:
    return " | ".join(filter(None, [summary, ", ".join(categories), "; ".join(items)]))
