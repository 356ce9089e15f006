"""Measure both sides in turn, keep what was measured, and set the figures side by side.

A round is one RecBole model and our variants of it, one process after the other on the same machine; the order
alternates from round to round. Ratios are taken within a round. A round is written down when it is complete:
an interrupted run repeats the round it was in, never pairs figures of different hours.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Measurement = dict[str, Any]
Worker = Callable[["Contest", "Contestant", int], list[Measurement]]
"""Runs a contestant of a contest with a seed and returns its measurements."""


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Parameters
    ----------
    label : str
        What the table calls it.
    side : {"ours", "recbole"}
        Whose code it is.
    model : str
        Name of the backbone or of RecBole's model.
    options, fit : dict
        Of our backbone; RecBole's are those of `benchmarks.recbole_worker`.
    against : str, optional
        The label of another variant of ours, where RecBole has no such model.
    """

    label: str
    side: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    against: str = ""


@dataclass(frozen=True)
class Contest:
    """A RecBole model and our variants of it."""

    name: str
    task: str
    recbole: Contestant
    ours: tuple[Contestant, ...]


@dataclass(frozen=True)
class Round:
    """The measurements of one round, by contestant's label."""

    contest: str
    repeat: int
    measured: dict[str, list[Measurement]]


def play(
    contests: Sequence[Contest], repeats: int, conditions: Mapping[str, dict[str, Any]], worker: Worker, raw: Path
) -> list[Round]:
    """Measure the rounds that `raw` does not hold yet; return all of them.

    Parameters
    ----------
    conditions : mapping
        By task, everything else that a figure depends on: data, code, machine, threads. A round of other
        conditions or other contestants is left in the file and not used.
    raw : pathlib.Path
        JSON lines, one a round, appended to.
    """
    known: dict[str, Round] = {}
    if raw.is_file():
        for line in raw.read_text().splitlines():
            held = json.loads(line)
            known[held["key"]] = Round(held["contest"], held["repeat"], held["measured"])
    rounds = []
    for repeat in range(repeats):
        for contest in contests:
            key = _key(contest, repeat, conditions[contest.task])
            if key not in known:
                order = (*contest.ours, contest.recbole)
                measured = {
                    one.label: worker(contest, one, repeat) for one in (order if repeat % 2 == 0 else order[::-1])
                }
                known[key] = Round(contest.name, repeat, measured)
                held = {"key": key, "conditions": conditions[contest.task], **asdict(known[key])}
                raw.parent.mkdir(parents=True, exist_ok=True)
                with raw.open("a") as lines:
                    lines.write(json.dumps(held) + "\n")
            rounds.append(known[key])
    return rounds


def table(contests: Sequence[Contest], rounds: Iterable[Round], *, seconds: str = "cpu_s") -> str:
    """Return the markdown table: medians over rounds, ratios within rounds (lowest to highest)."""
    lines = [
        "| ours | what | seconds | against | seconds | ours is | NDCG@10 | theirs |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    played = list(rounds)
    for contest in contests:
        own = [r.measured for r in played if r.contest == contest.name]
        for variant in contest.ours:
            against = variant.against or contest.recbole.label
            for what in ("epoch", "evaluate"):
                ours = [_seconds(measured[variant.label], what, seconds) for measured in own]
                theirs = [_seconds(measured[against], what, seconds) for measured in own]
                part = _part([m for measured in own for m in measured[against]], what)
                quality = [" ", " "]
                if what == "evaluate":
                    quality = [_quality([measured[label] for measured in own]) for label in (variant.label, against)]
                lines.append(
                    f"| {variant.label} | {'full ranking' if what == 'evaluate' else what} | "
                    f"{statistics.median(ours):,.2f} | {against} | {statistics.median(theirs):,.2f}{part} | "
                    f"{_ratio([b / a for a, b in zip(ours, theirs, strict=True)])} | {' | '.join(quality)} |"
                )
    return "\n".join(lines)


def _key(contest: Contest, repeat: int, conditions: dict[str, Any]) -> str:
    text = json.dumps([asdict(contest), repeat, conditions], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _seconds(measurements: list[Measurement], what: str, seconds: str) -> float:
    """Return the mean seconds of whole epochs or rankings, where only a part was timed by proportion."""
    return statistics.mean(
        m[seconds] * m.get("of_steps", 1) / m.get("steps", 1) for m in measurements if m["what"] == what
    )


def _part(measurements: list[Measurement], what: str) -> str:
    """Say which part of the steps was timed, where it was not all."""
    parts = [m["steps"] / m["of_steps"] for m in measurements if m["what"] == what and "steps" in m]
    return "" if not parts or min(parts) == 1 else f" (from {min(parts):.1%} of its steps)"


def _quality(runs: list[list[Measurement]]) -> str:
    """Return the median NDCG@10, or a dash where less than everything was trained on or ranked."""
    if any(m.get("steps") != m.get("of_steps") for run in runs for m in run):
        return "–"
    return f"{statistics.median(m['ndcg@10'] for run in runs for m in run if m['what'] == 'evaluate'):.4f}"


def _ratio(ratios: list[float]) -> str:
    median = statistics.median(ratios)
    spread = sorted(ratios if median >= 1 else [1 / r for r in ratios])
    text = f"{median:.1f}× faster" if median >= 1 else f"{1 / median:.1f}× slower"
    return text if len(ratios) == 1 else f"{text} ({spread[0]:.1f} to {spread[-1]:.1f})"
