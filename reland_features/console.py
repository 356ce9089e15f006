"""Show a run on a terminal: one line per stage on stderr, a bar while a stage works."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from reland_features.pipeline import Run
from reland_features.stages import Outcome

_UNITS = {
    "prepare": ("events", "interactions"),
    "encode": ("interactions", "behaviour vectors"),
    "sample": ("users", "seeds"),
    "generate": ("seeds", "rationales"),
    "pool": ("rationales", "in the pool"),
    "match": ("users", "matched"),
    "publish": ("users", "published"),
    "feast": ("users", "rows online"),
    "evaluate": ("users", "rankers measured"),
    "report": ("stages", "report"),
    "tune": ("examples", "steps learned"),
    "measure": ("held-out users", "sources of answers"),
}


class ConsoleListener:
    """Print what a run does; use as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> ConsoleListener:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, stage: str) -> None:
        """Show a spinner for the stage."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._task = self._progress.add_task(stage, total=None)

    def progressed(self, stage: str, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def finished(self, outcome: Outcome) -> None:
        """Print the stage's line: rows in → rows out, seconds, path."""
        before, after = _UNITS[outcome.stage]
        took = "unchanged" if outcome.cached else f"{outcome.seconds:.1f} s"
        rows = f"{outcome.rows_in:,} {before} → {outcome.rows_out:,} {after}"
        path = outcome.artifact.path
        self._console.print(f"{outcome.stage:<9} {rows:<52} {took:>10}  {path.parent.name}/{path.name}", markup=False)


def summary(done: Run) -> dict[str, Any]:
    """Return a run as one JSON-able object."""
    return {
        "project": str(done.project.root),
        "report": str(done.report) if done.report else None,
        "stages": {
            name: {
                "artifact": str(outcome.artifact.path),
                "cached": outcome.cached,
                "rows_in": outcome.rows_in,
                "rows_out": outcome.rows_out,
                "seconds": outcome.seconds,
                **({"usage": outcome.artifact.manifest["usage"]} if name == "generate" else {}),
            }
            for name, outcome in done.outcomes.items()
        },
        **({"drift": done.drift.as_dict()} if done.drift else {}),
    }
