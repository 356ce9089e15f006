"""`reland tune`."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from reland_features.commands.options import AsOf, Json, Overrides, ProjectDir, say


def tune(
    project: ProjectDir = Path(),
    as_of: AsOf = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print examples, tokens, steps and, from two timed steps, hours.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Teach the LLM what your users chose next (LoRA), and measure it before and after on other users."""
    from reland_features.console import ConsoleListener
    from reland_features.pipeline import run
    from reland_features.project import Project
    from reland_features.tuning.job import TuningJob
    from reland_features.tuning.measures import table

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("reland_features.tuning").setLevel(logging.INFO)
    opened = Project.open(project, [*(overrides or ()), *([f"data.as_of={as_of}"] if as_of else [])])
    until = TuningJob.needs(opened)
    with ConsoleListener() as listener:
        job = TuningJob(opened, run(opened, until, listener).outcomes)
        if dry_run:
            plan = job.plan()
            print(json.dumps(plan) if as_json else "\n".join(f"{key:<28}{value}" for key, value in plan.items()))
            return
        with opened.lock():
            listener.started("tune")
            tuned = job.tune(partial(listener.progressed, "tune"))
            listener.finished(tuned)
            listener.started("measure")
            measured = job.measure(tuned, partial(listener.progressed, "measure"))
            listener.finished(measured)
    measures = measured.artifact.manifest["measures"]
    if as_json:
        print(json.dumps({"adapter": tuned.artifact.id, "measures": measures}))
        return
    say(f"\n{measured.rows_in:,} held-out users, 95 % bootstrap intervals over users\n\n{table(measures)}")
    say(f'\nin reland.toml:\n\n[rationales]\nadapter = "{tuned.artifact.id}"\n\nthen: reland run')
