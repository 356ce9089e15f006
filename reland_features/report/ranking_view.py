"""Turn the metrics that a ranker's evaluation wrote into what the report shows, whatever the metrics are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """A paired difference between two rankers, with its interval.

    Parameters
    ----------
    role : str
        What the second ranker is: ``"baseline"``; a ``"control"``, which has to be beaten before a gain is the
        rationales'; or an ``"alternative"`` to them.
    """

    ranker: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    level: str = "all"
    role: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        interval = f"{signed(self.value)} (95 % interval {signed(self.low)} to {signed(self.high)})"
        if not self.is_clear:
            return f"The {label(self.metric)} of “{self.ranker}” and “{self.against}” cannot be told apart: {interval}."
        comparison = "a higher" if self.low > 0 else "a lower"
        return f"“{self.ranker}” has {comparison} {label(self.metric)} than “{self.against}”: {interval}."


@dataclass(frozen=True)
class Cell:
    """A metric's value; `low` and `high` where an interval was given."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RankingView:
    """Rankers by metrics, and differences between them."""

    protocol: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    differences: tuple[Difference, ...]

    @property
    def overall(self) -> tuple[Difference, ...]:
        """Differences over all users."""
        return tuple(d for d in self.differences if d.level == "all")

    @property
    def headline(self) -> Difference | None:
        """The difference to quote: over all users, against the first opponent, NDCG where there is one."""
        opponent = [d for d in self.overall if d.against == self.overall[0].against]
        return next((d for d in opponent if "ndcg" in d.metric.lower()), opponent[0] if opponent else None)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """For the headline's metric, ranker by ranker: a sentence per opponent, and one on all of its controls."""
        if self.headline is None:
            return ("No paired differences were given, so nothing can be concluded from the table alone.",)
        quoted = [d for d in self.overall if d.metric == self.headline.metric]
        sentences: list[str] = []
        for ranker in dict.fromkeys(d.ranker for d in quoted):
            own = [d for d in quoted if d.ranker == ranker]
            others, controls = ([d for d in own if (d.role == "control") == wanted] for wanted in (False, True))
            sentences += map(str, others)
            if controls:
                baselines = [d for d in others if d.role != "alternative"]
                gains = bool(baselines) and all(d.low > 0 for d in baselines)
                sentences.append(_on_controls(ranker, controls, gains=gains))
        if inherited := self._inherited(self.headline):
            sentences.append(f"Only users who inherit another user's rationale: {inherited}")
        return tuple(sentences)

    def _inherited(self, quoted: Difference) -> Difference | None:
        """Return a difference over the users who are no seeds themselves, where it was measured."""
        same = (quoted.ranker, quoted.against, quoted.metric)
        of = [d for d in self.differences if d.level == "inherit" and (d.ranker, d.against, d.metric) == same]
        return of[0] if of else None


def _on_controls(ranker: str, controls: Sequence[Difference], *, gains: bool) -> str:
    """Say which controls a ranker beats, and what that means for its gain."""
    parts = [
        f"{verb} {', '.join(f'“{d.against}” ({signed(d.value)})' for d in chosen)}"
        for verb, chosen in (
            ("better than", [d for d in controls if d.low > 0]),
            ("not better than", [d for d in controls if d.low <= 0]),
        )
        if chosen
    ]
    kinds = "Controls have another's rationale, one for all, no text, or one that no LLM wrote"
    sentence = f"{kinds}; “{ranker}” is {'; '.join(parts)}."
    if any(d.low <= 0 for d in controls):
        return f"{sentence} The content of the rationales cannot be credited with a gain."
    return sentence + " The gain comes from the content of the rationales, not from the extra columns." * gains


def ranking_view(metrics: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> RankingView:
    """Read metrics generically.

    Every number in a ranker's entry is a metric. Its interval is looked for under ``<metric>_ci``,
    ``<metric>_low`` with ``<metric>_high``, and ``ci[<metric>]``.
    """
    whole: Mapping[str, Any] = metrics if isinstance(metrics, Mapping) else {"rankers": metrics}
    rankers = list(whole.get("rankers", ()))
    names: list[str] = []
    for ranker in rankers:
        for key, value in ranker.items():
            if _is_number(value) and not key.endswith(("_low", "_high")) and key not in names:
                names.append(key)
    rows = tuple(
        (str(ranker.get("name", f"ranker {number}")), tuple(_cell(ranker, name) for name in names))
        for number, ranker in enumerate(rankers, 1)
    )
    differences = tuple(
        Difference(
            str(d["ranker"]),
            str(d["against"]),
            str(d["metric"]),
            d["value"],
            d["low"],
            d["high"],
            d.get("level", "all"),
            d.get("role", ""),
        )
        for d in whole.get("differences", ())
    )
    return RankingView(str(whole.get("protocol", "")), tuple(names), rows, differences)


def label(metric: str) -> str:
    """Write a metric's name as readers know it: ``ndcg@10`` is NDCG@10, ``hit_rate@10`` is HR@10."""
    base, at, k = metric.partition("@")
    known = {"ndcg": "NDCG", "hit_rate": "HR", "hr": "HR", "mrr": "MRR", "map": "MAP", "auc": "AUC", "recall": "Recall"}
    return known.get(base.lower(), base.replace("_", " ")) + at + k


def signed(value: float) -> str:
    """Format a difference with its sign and a true minus."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _cell(ranker: Mapping[str, Any], name: str) -> Cell:
    value = ranker.get(name)
    grouped = ranker.get("ci")
    interval = ranker.get(f"{name}_ci") or (grouped.get(name) if isinstance(grouped, Mapping) else None)
    low, high = interval or (ranker.get(f"{name}_low"), ranker.get(f"{name}_high"))
    return Cell(value if _is_number(value) else None, low, high)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
