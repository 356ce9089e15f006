"""Search a backbone's hyperparameters by their validation NDCG@10, and print the best as TOML."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ranking.experiments import toml
from ranking.experiments.dataset import task_of
from ranking.experiments.runs import Run
from ranking.experiments.study import Study
from reland_features.errors import ConfigError

SUMMARY = "search hyperparameters on the validation part; prints the best as TOML"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--variant", default="id")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="all combinations if there are no more")


def run(study: Study) -> list[Path]:
    """Train every combination, or a random sample of them, and measure the validation part for all users.

    Nothing here ranks the test part. Trials are kept beside the projects, not among results.
    """
    options, task = study.options, task_of(study.options.backbone)
    space = study.dataset.search_space(task, options.backbone)
    if not space or options.trials < 1:
        raise ConfigError(
            "there is nothing to search",
            where=f"{study.dataset.name}.toml, [{task}.{options.backbone}.search]",
            got=f"{len(space)} lists, --trials {options.trials}",
            expected='"fit.learning_rate" = [1e-3, 5e-4] and at least one trial',
        )
    runner = dataclasses.replace(
        study.runner, results=options.projects / "searches", keep_weights=False, part="validation"
    )
    specs = [
        study.spec(options.backbone, options.variant, overrides=tuple(trial.items()))
        for trial in trials(space, options.trials)
    ]
    runs = runner.run_all(specs)
    for spec in sorted(specs, key=lambda each: -score(runs[each])):
        changes = ", ".join(f"{key} = {value}" for key, value in spec.overrides)
        print(f"{score(runs[spec]):.4f}  epoch {runs[spec].facts['best_epoch']:>3}  {changes}", file=sys.stderr)
    best = max(specs, key=lambda each: score(runs[each]))
    found = study.dataset.hyperparameters(
        task, options.backbone, quick=options.quick, overrides=dict(best.overrides)
    ).as_dict()
    print(f"# validation NDCG@10 {score(runs[best]):.4f}: {study.command}")
    print(toml.dumps({task: {options.backbone: found}}), end="")
    return []


def trials(space: Mapping[str, Sequence[Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return all combinations of the lists, or `count` different ones drawn at random."""
    sizes = [len(values) for values in space.values()]
    total = math.prod(sizes)
    if total <= count:
        return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    chosen = np.random.default_rng(seed).choice(total, size=count, replace=False)
    return [
        {key: space[key][index] for key, index in zip(space, np.unravel_index(number, sizes), strict=True)}
        for number in chosen
    ]


def score(run: Run) -> float:
    """Return NDCG@10 of a trial, by the convention that training stopped by."""
    return float(run.values("ndcg", run.facts["hyperparameters"]["fit"]["convention"]).mean())
