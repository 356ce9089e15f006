"""Plan runs: find a spec's project, and its hyperparameters and inputs, before anything is trained."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ranking.backbones import check_options
from ranking.experiments.dataset import BACKBONES, Dataset
from ranking.experiments.inputs import open_project
from ranking.experiments.run_inputs import inputs_of
from ranking.experiments.runs import Plan, RunSpec
from ranking.project import RankingProject
from reland_features.errors import CheckError, ConfigError, RelandError


@dataclass(frozen=True)
class Planner:
    """Where projects are found.

    Parameters
    ----------
    dataset : Dataset
        Gives the hyperparameters.
    projects : Path
        Holds ``<data set>/<task>[-<source>]``, what `prepare` makes.
    """

    dataset: Dataset
    projects: Path

    def root(self, spec: RunSpec) -> Path:
        """Return the project of a spec."""
        return self.projects / self.dataset.name / "-".join(filter(None, (spec.task, spec.source)))

    def project(self, spec: RunSpec) -> RankingProject:
        """Open the project of a spec; raise `ConfigError` with the command that makes it."""
        root = self.root(spec)
        if not (root / ".reland" / "current.json").is_file():
            raise ConfigError(
                "there is no finished project to take features from", where=str(root), hint=self._how(spec)
            )
        return open_project(root)

    def plan(self, spec: RunSpec) -> Plan:
        """Return a spec with its hyperparameters and inputs; raise `RelandError` where a name is wrong."""
        if spec.backbone not in BACKBONES.get(spec.task, ()):  # type: ignore[call-overload]
            raise ConfigError(
                f"no such backbone for the {spec.task} task",
                where="--backbones",
                got=spec.backbone,
                expected=", ".join(BACKBONES.get(spec.task, ())),  # type: ignore[call-overload]
            )
        project = self.project(spec)
        spec = spec.canonical()
        hyperparameters = self.dataset.hyperparameters(
            spec.task,
            spec.backbone,
            cut=spec.keep_last is not None,
            quick=spec.quick,
            overrides=dict(spec.overrides),
        )
        check_options(spec.backbone, hyperparameters.options)
        return Plan(spec, hyperparameters, inputs_of(spec, project), project.root)

    def plan_all(self, specs: Iterable[RunSpec]) -> dict[RunSpec, Plan]:
        """Return the plan of every spec.

        Raises
        ------
        RelandError
            Names are wrong or projects are missing, all of them at once, or runs cannot be compared.
        """
        plans, problems = {}, {}
        for spec in specs:
            try:
                plans[spec] = self.plan(spec)
            except RelandError as error:
                problems[str(error)] = error
        if len(problems) == 1:
            raise next(iter(problems.values()))
        if problems:
            raise CheckError(list(problems.values()))
        check_comparable(plans.values())
        return plans

    def _how(self, spec: RunSpec) -> str:
        """Return the command that makes a spec's project."""
        words = ["--dataset", self.dataset.given or self.dataset.name, "--tables", "DIR"]
        words += ["--projects", str(self.projects)]
        if spec.source:
            words += ["--source", spec.source]
        if spec.source and spec.source not in self.dataset.sources:
            words += ["--rationales", "FILE"]
        return shlex.join(["python", "-m", "ranking.experiments", "prepare", *words])


def check_comparable(plans: Iterable[Plan]) -> None:
    """Raise `ConfigError` where runs that are to be compared have not the same users and interactions."""
    first: dict[str, Plan] = {}
    for plan in plans:
        other = first.setdefault(plan.spec.task, plan)
        if plan.inputs["marts"] != other.inputs["marts"]:
            raise ConfigError(
                "rationales of another source were made on other interactions, so users cannot be compared",
                where=str(plan.project),
                got=plan.inputs["marts"],
                expected=f"{other.inputs['marts']}, as in {other.project}",
                hint="make both projects with the same --set",
            )
