"""Measure rankers with and without the features, by a command of the user's choice.

The library knows no ranker: it runs `evaluation.command`, which reads the Feast repository and writes
metrics as JSON, and keeps them beside the features they belong to.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from reland_features.artifacts import Draft
from reland_features.errors import RelandError
from reland_features.project import Project
from reland_features.stages import Outcome, Progress, package_version, run_stage

METRICS = "metrics.json"


def evaluate(project: Project, published: Outcome, served: Outcome, progress: Progress) -> Outcome:
    """Run the evaluation command: features → metrics; without held-out events there are none.

    Raises
    ------
    RelandError
        The command failed; the published features stay.
    """
    settings = project.config.evaluation

    def work(draft: Draft) -> tuple[int, int]:
        output = draft.path / METRICS
        if not settings.holdout or not settings.command:
            reason = "evaluation.holdout is 0" if not settings.holdout else "evaluation.command is empty"
            output.write_text(json.dumps({"not_measured": reason}))
            return published.rows_out, 0
        filled = {"python": sys.executable, "project": str(project.root), "output": str(output)}
        command = [part.format(**filled) for part in settings.command]
        done = subprocess.run(command, cwd=project.root, capture_output=True, text=True)
        if done.returncode or not output.is_file():
            raise RelandError(
                "the ranker could not be evaluated; the features are published",
                where=" ".join(command),
                got=(done.stderr or done.stdout)[-2000:].strip() or f"exit status {done.returncode}, no {METRICS}",
                expected=f"exit status 0 and {output}",
                hint="run the command by hand, or set evaluation.command = [] to go without",
            )
        return published.rows_out, len(json.loads(output.read_text()).get("rankers", []))

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
