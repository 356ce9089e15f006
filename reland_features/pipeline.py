"""The main job: all stages in order, each from what is already finished.

::

    prepare → encode → sample → generate → pool → match → publish → feast → evaluate → report

And `refresh`, which brings later behaviour to the published pool: without a fit, seeds drawn or an LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from reland_features import stages
from reland_features.artifacts import Draft
from reland_features.check import check_parts
from reland_features.drift import Drift
from reland_features.errors import CheckError
from reland_features.evaluation import evaluate
from reland_features.project import Project
from reland_features.stages import Outcome

REFRESH = ("prepare", "encode", "pool", "match", "publish", "feast")
STAGES = ("prepare", "encode", "sample", "generate", "pool", "match", "publish", "feast", "evaluate", "report")


class Listener(Protocol):
    """Told what happens while a run works."""

    def started(self, stage: str) -> None:
        """Note that a stage begins."""

    def progressed(self, stage: str, done: int, total: int) -> None:
        """Note that a stage has done `done` of `total`."""

    def finished(self, outcome: Outcome) -> None:
        """Note that a stage has its artifact."""


class Silent:
    """A listener that says nothing."""

    def started(self, stage: str) -> None:
        """Do nothing."""

    def progressed(self, stage: str, done: int, total: int) -> None:
        """Do nothing."""

    def finished(self, outcome: Outcome) -> None:
        """Do nothing."""


@dataclass
class Run:
    """What one run made, by stage, and where it was a refresh, what that changed."""

    project: Project
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    drift: Drift | None = None

    @property
    def report(self) -> Path | None:
        """The HTML report, once there is one."""
        outcome = self.outcomes.get("report")
        return self.project.reports / outcome.artifact.manifest["file"] if outcome else None

    def example_user(self) -> str:
        """Return the most active matched user, for messages."""
        import polars as pl

        users = pl.scan_parquet(self.outcomes["prepare"].artifact.table("users"))
        return users.sort("interaction_count", "user_id", descending=[True, False]).head(1).collect()["user_id"][0]


def run(
    project: Project, until: str = "report", listener: Listener | None = None, *, retry_failed: bool = False
) -> Run:
    """Run every stage up to and including `until`; finished artifacts are taken as they are.

    With `retry_failed` seeds without a usable rationale are asked about again.

    Raises
    ------
    CheckError
        Something the run needs is missing or wrong; raised before any stage begins.
    """
    tell = listener or Silent()
    if problems := check_parts(project):
        raise CheckError(problems)
    done = Run(project)
    steps: dict[str, Callable[[stages.Progress], Outcome]] = {
        "prepare": lambda p: stages.prepare(project, p),
        "encode": lambda p: stages.encode(project, o["prepare"], p),
        "sample": lambda p: stages.sample(project, o["prepare"], o["encode"], p),
        "generate": lambda p: stages.generate(project, o["prepare"], o["sample"], p, retry_failed=retry_failed),
        "pool": lambda p: stages.build_pool(project, o["encode"], o["sample"], o["generate"], p),
        "match": lambda p: stages.match(project, o["prepare"], o["encode"], o["pool"], p),
        "publish": lambda p: stages.publish(project, o["prepare"], o["sample"], o["pool"], o["match"], p),
        "feast": lambda p: stages.serve(project, o["publish"], p),
        "evaluate": lambda p: evaluate(project, o["publish"], o["feast"], p),
        "report": lambda p: report(project, o, p),
    }
    o = done.outcomes
    with project.lock():
        _work(STAGES[: STAGES.index(until) + 1], steps, o, tell)
    return done


def refresh(project: Project, listener: Listener | None = None) -> Run:
    """Match users by their behaviour of today to the published pool, publish the features and materialize them.

    The encoder is that of the pool, as it was fitted then; no seed is drawn and no LLM is asked. The pool keeps its
    version, and rankers that were trained with it go on, unless people have decided about a rationale since
    (`reland pool block`, `edit`, ...) or what follows the LLM's answers is configured otherwise.

    Raises
    ------
    CheckError
        Something is missing or wrong; raised before any stage begins.
    FeatureStoreError
        Nothing is published yet.
    PoolError, EncoderMismatchError, ConfigError
        The published pool cannot be matched to by what is configured; see `stages.fitted_pool`.
    """
    tell = listener or Silent()
    if problems := check_parts(project, llm=False):
        raise CheckError(problems)
    done = Run(project)
    o = done.outcomes
    with project.lock():
        there = stages.fitted_pool(project)
        steps: dict[str, Callable[[stages.Progress], Outcome]] = {
            "prepare": lambda p: stages.prepare(project, p),
            "encode": lambda p: stages.transform(project, o["prepare"], there, p),
            "pool": lambda p: stages.build_pool(project, there.encoded, there.seeds, there.rationales, p),
            "match": lambda p: stages.match(project, o["prepare"], o["encode"], o["pool"], p),
            "publish": lambda p: stages.publish(project, o["prepare"], there.seeds, o["pool"], o["match"], p),
            "feast": lambda p: stages.serve(project, o["publish"], p),
        }
        _work(REFRESH, steps, o, tell)
    done.drift = Drift.between(
        there.encoded.artifact, there.first_matches(project), o["encode"].artifact, o["match"].artifact
    )
    return done


def _work(
    names: Sequence[str],
    steps: Mapping[str, Callable[[stages.Progress], Outcome]],
    outcomes: dict[str, Outcome],
    tell: Listener,
) -> None:
    for stage in names:
        tell.started(stage)
        outcomes[stage] = steps[stage](partial(tell.progressed, stage))
        tell.finished(outcomes[stage])


def report(project: Project, outcomes: dict[str, Outcome], progress: stages.Progress) -> Outcome:
    """Write the HTML report of a run from its artifacts' manifests and tables."""
    from reland_features.report import write_report
    from reland_features.report.collect import collect

    inputs = [outcome.artifact.id for outcome in outcomes.values()]

    def work(draft: Draft) -> tuple[int, int]:
        name = f"{draft.id}.html"  # of all stages: the same features may be evaluated in several ways
        project.reports.mkdir(exist_ok=True)
        write_report(project.reports / name, collect(project, outcomes))
        draft.facts["file"] = name
        return len(outcomes), 1

    return stages.run_stage(
        project,
        "report",
        "report",
        as_of=outcomes["publish"].as_of,
        config={},
        inputs=inputs,
        work=work,
        # A page of before is named by the features alone, and may show another evaluation.
        still_holds=lambda made: (project.reports / f"{made.id}.html").is_file(),
    )
