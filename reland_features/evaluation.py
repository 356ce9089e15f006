"""Measure rankers with and without the features, by a command of the user's choice.

The library knows no ranker: it runs `evaluation.command`, which reads the Feast repository and writes
metrics as JSON, and keeps them beside the features they belong to.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reland_features.artifacts import Draft
from reland_features.errors import ConfigError, RelandError
from reland_features.project import Project
from reland_features.stages import Outcome, Progress, package_version, run_stage

METRICS = "metrics.json"


def evaluate(project: Project, published: Outcome, served: Outcome, progress: Progress) -> Outcome:
    """Run the evaluation command: features → metrics; without held-out events there are none.

    Raises
    ------
    ConfigError
        The command has a brace that names nothing, or is no program.
    RelandError
        The command failed, or what it wrote is not metrics. In all cases the published features stay.
    """
    settings = project.config.evaluation

    def work(draft: Draft) -> tuple[int, int]:
        output = draft.path / METRICS
        if not settings.holdout or not settings.command:
            reason = "evaluation.holdout is 0" if not settings.holdout else "evaluation.command is empty"
            output.write_text(json.dumps({"not_measured": reason}))
            return published.rows_out, 0
        filled = {"python": sys.executable, "project": str(project.root), "output": str(output)}
        command = _filled(settings.command, filled)
        try:
            done = subprocess.run(
                command, cwd=project.root, capture_output=True, text=True, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            raise ConfigError(
                "the evaluation command cannot be started; the features are published",
                where="evaluation.command",
                got=f"{command[0]}: {error.strerror}",
                expected="a program on the PATH or the path of one, which may be executed",
                hint="install it or name its whole path, or set evaluation.command = [] to go without",
            ) from error
        if done.returncode or not output.is_file():
            raise RelandError(
                "the ranker could not be evaluated; the features are published",
                where=" ".join(command),
                got=(done.stderr or done.stdout)[-2000:].strip() or f"exit status {done.returncode}, no {METRICS}",
                expected=f"exit status 0 and {output}",
                hint="run the command by hand, or set evaluation.command = [] to go without",
            )
        return published.rows_out, _count_rankers(output, command)

    return run_stage(
        project,
        "evaluate",
        "metrics",
        as_of=published.as_of,
        config={**settings.model_dump(mode="json"), "version": package_version()},
        inputs=[published.artifact.id, served.artifact.id],
        work=work,
    )


def read_metrics(outcome: Outcome) -> dict[str, Any]:
    """Return what the command wrote."""
    return json.loads((outcome.artifact.path / METRICS).read_text())


def _filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Fill the placeholders of a command in; part by part, so that the error can name the one that is wrong."""
    filled = []
    for part in command:
        try:
            filled.append(part.format(**values))
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(
                "the evaluation command has a brace that is no placeholder; the features are published",
                where="evaluation.command",
                got=repr(part),
                expected=", ".join(f"{{{name}}}" for name in values),
                hint="write a brace of your own twice: awk {{print}}",
            ) from error
    return filled


def _count_rankers(output: Path, command: Sequence[str]) -> int:
    try:
        metrics = json.loads(output.read_text(encoding="utf-8"))
        problem = "" if isinstance(metrics, dict) else f"JSON, but a {type(metrics).__name__} at the top"
        rankers = [] if problem else metrics.get("rankers", [])
        if not isinstance(rankers, list):
            problem = f"rankers is a {type(rankers).__name__}"
    except ValueError as error:  # no JSON, or no UTF-8
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise RelandError(
            "the evaluation command wrote no metrics; the features are published",
            where=" ".join(command),
            got=problem,
            expected=f'one JSON object in {{output}} ({output.name}), its rankers a list: {{"rankers": [...]}}',
            hint="mend the command, or set evaluation.command = [] to go without",
        )
    return len(rankers)
