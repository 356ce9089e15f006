"""Counters of what the LLM took, for Prometheus: a file for the textfile collector of its node exporter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reland_features.artifacts import write_atomically
from reland_features.ledger import Ledger
from reland_features.usage import EngineUsage

_PAUSE = 15.0  # seconds between two writes while a run works: what Prometheus reads at most
_COUNTERS = {
    "reland_llm_calls_total": "Calls, failed ones included.",
    "reland_llm_failed_total": "Calls that got no answer.",
    "reland_llm_tokens_total": "Tokens, by kind.",
    "reland_llm_cost_total": "Cost of those tokens at the prices last configured for the engine.",
    "reland_llm_seconds_total": "Seconds of calls; calls made at the same time share theirs.",
}


def render(project: str, engines: Iterable[EngineUsage]) -> str:
    """Return the counters in Prometheus' text exposition format; labels are project, engine and kind."""
    samples: dict[str, list[str]] = {name: [] for name in _COUNTERS}
    for engine in engines:
        for name, kind, value in _values(engine):
            labels = {"project": project, "engine": engine.engine_id, **({"kind": kind} if kind else {})}
            text = ",".join(f'{label}="{_escaped(given)}"' for label, given in labels.items())
            samples[name].append(f"{name}{{{text}}} {value!r}\n")
    return "".join(
        f"# HELP {name} {_COUNTERS[name]}\n# TYPE {name} counter\n{''.join(lines)}" for name, lines in samples.items()
    )


@dataclass
class UsageCounters:
    """The counters' file of one project: totals of the whole ledger, so that no kill loses any."""

    path: Path
    project: str
    _written: float = 0.0

    def write(self, ledger: Ledger) -> None:
        """Write the file, atomically: a reader sees the old or the new counters."""
        write_atomically(self.path, render(self.project, ledger.usage_by_engine()))
        self._written = time.monotonic()

    def refresh(self, ledger: Ledger) -> None:
        """Write the file unless it was written a moment ago."""
        if time.monotonic() - self._written >= _PAUSE:
            self.write(ledger)


def _values(engine: EngineUsage) -> Iterator[tuple[str, str, float]]:
    usage = engine.usage
    yield "reland_llm_calls_total", "", usage.calls
    yield "reland_llm_failed_total", "", usage.failed
    yield "reland_llm_tokens_total", "prompt", usage.prompt_tokens
    yield "reland_llm_tokens_total", "completion", usage.completion_tokens
    yield "reland_llm_cost_total", "", engine.cost
    yield "reland_llm_seconds_total", "", usage.seconds


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
