"""Carry out runs: find those that are finished, train the others, one after another or several at once."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ranking.backbones import build
from ranking.backbones.base import Backbone
from ranking.checkpoints import weights_id
from ranking.device import chosen_device
from ranking.experiments.dataset import Dataset
from ranking.experiments.inputs import open_project, sides_of, split_of
from ranking.experiments.machine import machine, versions
from ranking.experiments.planner import Planner
from ranking.experiments.run_inputs import check_inputs
from ranking.experiments.runs import LEVELS, Plan, Run, RunSpec
from ranking.experiments.seed_subset import PoolFolder
from ranking.experiments.variants import variant
from ranking.experiments.weights_folder import WeightsFolder
from ranking.fitting import Fit, evaluate, fit
from ranking.project import RankingProject
from ranking.splits import Part, Split
from reland_features.errors import RelandError


@dataclass(frozen=True)
class Runner:
    """Where projects are found and results are kept.

    Parameters
    ----------
    dataset : Dataset
        Gives the hyperparameters.
    projects : Path
        Holds ``<data set>/<task>[-<source>]``, what `prepare` makes.
    results : Path
        Runs go to ``raw/<data set>/<run id>.parquet`` below it.
    jobs : int
        Runs at once, each in its own process.
    keep_weights : bool
        Whether trained weights are kept in the projects' folder, below ``weights``.
    device : str
        Where backbones are trained, see `ranking.device.chosen_device`.
    part : {"test", "validation"}
        Which held-out items a trained backbone is measured on. A search measures the validation part, so that nobody
        sees a test figure before hyperparameters are chosen.
    """

    dataset: Dataset
    projects: Path
    results: Path
    jobs: int = 1
    keep_weights: bool = True
    device: str = "cpu"
    part: Part = "test"

    @property
    def planner(self) -> Planner:
        """What finds projects and makes plans."""
        return Planner(self.dataset, self.projects)

    @property
    def weights(self) -> WeightsFolder:
        """Where trained weights are kept."""
        return WeightsFolder(self.projects / "weights")

    def path(self, plan: Plan) -> Path:
        """Return where a run's file is, or will be."""
        return self.results / "raw" / self.dataset.name / f"{plan.id}.parquet"

    def run_all(self, specs: Sequence[RunSpec]) -> dict[RunSpec, Run]:
        """Return the run of every spec; finished ones are read, the others are trained and kept one by one.

        What another command finishes while this one is at work is read, too.

        Raises
        ------
        RelandError
            A name is wrong or a project is missing: before anything is trained.
        """
        plans = self.planner.plan_all(specs)
        wanted = {plan.id: plan for plan in plans.values()}
        todo = [plan for plan in wanted.values() if not self.path(plan).is_file()]
        found = len(wanted) - len(todo)
        _say(f"{len(wanted)} runs: {found} finished before, {len(todo)} to do")
        learned_from = [_training_of(plan) for plan in todo if plan.spec.known]
        for learned in {plan.id: plan for plan in learned_from}.values():
            if not self.weights.of(learned).is_file():  # once, before several runs at once need them
                self.execute(learned)
        for done, (plan, run) in enumerate(self._execute_all(todo), 1):
            _say(f"[{done}/{len(todo)}] {_summary(plan, run)}  {self.path(plan).name}")
        runs = {plan_id: Run.read(self.path(plan)) for plan_id, plan in wanted.items()}
        return {spec: runs[plan.id] for spec, plan in plans.items()}

    def execute(self, plan: Plan) -> tuple[Run, Backbone]:
        """Train and measure, and keep the result; return it with the trained backbone.

        Raises
        ------
        ConfigError
            The project has published other features since the plan was made.
        """
        backbone, training = self._train(plan)
        run = self.measured(plan, backbone, training)
        if self.keep_weights and not plan.spec.known:  # newcomers are met with the weights of the others
            self.weights.save(backbone, plan)
        run.write(self.path(plan))
        self.weights.state(plan).unlink(missing_ok=True)
        return run, backbone

    def measured(self, plan: Plan, backbone: Backbone, training: Mapping[str, Any]) -> Run:
        """Measure a trained backbone on a plan's users; keep nothing. `training` is what the run says of it."""
        spec, project = plan.spec, open_project(plan.project)
        pool = PoolFolder.of(project).facts() if variant(spec.variant).reads_pool else None
        started = time.process_time()
        metrics = evaluate(backbone, self.part)
        seconds = time.process_time() - started
        return Run(
            users=metrics.users.astype(np.uint32),
            level=_levels(project, backbone.split)[metrics.users],
            hit_rate={name: values.astype(np.uint8) for name, values in metrics.hit_rate.items()},
            ndcg={name: values.astype(np.float32) for name, values in metrics.ndcg.items()},
            facts={
                "spec": spec.as_dict(),
                "hyperparameters": plan.hyperparameters.as_dict(),
                "part": self.part,
                "inputs": dict(plan.inputs) | ({"pool_version": project.pool_version} if pool else {}),
                **({"pool": pool} if pool else {}),
                **training,
                "evaluation_seconds": round(seconds, 3),
                "machine": machine(chosen_device(self.device)),
                "versions": versions(),
            },
        )

    def _train(self, plan: Plan) -> tuple[Backbone, dict[str, Any]]:
        """Return a plan's trained backbone, and what its run says of the training; newcomers are met with another's."""
        spec, backbone = plan.spec, self.untrained(plan)
        if spec.known:
            learned = _training_of(plan)
            facts = self.run(learned).facts
            backbone.load_state_dict(self._trained(learned).state_dict())
            of_training = {name: facts[name] for name in ("curve", "best", "best_epoch", "epochs")}
            return backbone, {**of_training, "training_seconds": 0.0, "weights": weights_id(backbone)}
        fitted = (
            fit(backbone, plan.hyperparameters.fit, seed=spec.seed, state_file=self.weights.state(plan))
            if any(weights.requires_grad for weights in backbone.parameters())
            else Fit((), 0, {}, 0, 0.0)  # popularity and item-kNN only count
        )
        return backbone, {
            "curve": [dataclasses.asdict(point) for point in fitted.curve],
            "best": fitted.best,
            "best_epoch": fitted.best_epoch,
            "epochs": fitted.epochs,
            "training_seconds": round(fitted.seconds, 3),
            **({} if spec.known is None else {"weights": weights_id(backbone)}),
        }

    def run(self, plan: Plan) -> Run:
        """Return a plan's run: read where it is there, as another command may have been faster, or else trained."""
        path = self.path(plan)
        return Run.read(path) if path.is_file() else self.execute(plan)[0]

    def trained(self, spec: RunSpec) -> Backbone:
        """Return a trained backbone: from its weights, or by repeating the run where they are gone.

        Raises
        ------
        ArtifactError
            The weights are of another version of the backbone.
        """
        return self._trained(self.planner.plan(spec))

    def _trained(self, plan: Plan) -> Backbone:
        if not self.weights.of(plan).is_file():
            return self.execute(plan)[1]
        backbone = self.untrained(plan)
        self.weights.fill(backbone, plan)
        return backbone.eval()

    def untrained(self, plan: Plan) -> Backbone:
        """Build a run's backbone with its features; raise `ConfigError` where they are no longer those of the plan."""
        spec, root = plan.spec, plan.project
        check_inputs(plan)
        split, sides = split_of(root, spec), sides_of(root, spec)
        check_inputs(plan)  # again: others may have been published while these were read
        backbone = build(spec.backbone, split, plan.hyperparameters.options, sides=sides, seed=spec.seed)
        return backbone.to(chosen_device(self.device))

    def _execute_all(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, Run]]:
        if self.jobs == 1:
            for plan in plans:
                yield plan, self.run(plan)
            return
        # Spawned, not forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            self.jobs, mp_context=context, initializer=_share_cores, initargs=(self.jobs,)
        ) as pool:
            try:
                yield from zip(plans, pool.map(self.run, plans), strict=True)
            except BrokenProcessPool as error:
                raise RelandError(
                    "the process of a run was killed",
                    where=f"--jobs {self.jobs}",
                    got="as by the system, where memory ran out",
                    hint="finished runs are kept: the same command goes on, with fewer --jobs",
                ) from error


def _training_of(plan: Plan) -> Plan:
    """Return the plan whose weights newcomers are met with."""
    return dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, known=0))


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _levels(project: RankingProject, split: Split) -> np.ndarray:
    """Return the activity level of every user, uint8 [U]; 0 where the mart has none."""
    levels = pl.read_parquet(project.mart("users"), columns=["user_id", "activity_level"])
    joined = pl.DataFrame({"user_id": split.user_ids}).join(levels, on="user_id", how="left", maintain_order="left")
    numbers = {level: number for number, level in enumerate(LEVELS, 1)}
    return joined["activity_level"].replace_strict(numbers, default=0, return_dtype=pl.UInt8).to_numpy()


def _summary(plan: Plan, run: Run) -> str:
    means = " ".join(f"{name} {run.values('ndcg', name).mean():.4f}" for name in run.ndcg)
    facts = run.facts
    return (
        f"{plan.spec.label()}: {facts['part']} NDCG@10 {means}, epoch {facts['best_epoch']} of {facts['epochs']}, "
        f"{facts['training_seconds'] + facts['evaluation_seconds']:.0f} CPU s"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
