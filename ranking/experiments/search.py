"""Search a backbone's hyperparameters by their validation NDCG@10, and print the best as TOML."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ranking.experiments import toml, trials
from ranking.experiments.dataset import task_of
from ranking.experiments.options import add_cut
from ranking.experiments.study import Study

SUMMARY = "search hyperparameters on the validation part; prints the best as TOML"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--variant", default="id")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="all combinations if there are no more")
    add_cut(parser)


def run(study: Study) -> list[Path]:
    """Train every combination, or a random sample of them, measure the validation part for all users, and print."""
    options, task = study.options, task_of(study.options.backbone)
    spec = study.spec(options.backbone, options.variant)
    found = trials.search(study.runner, [spec], options.trials)[spec]
    for trial in found:
        changes = ", ".join(f"{key} = {value}" for key, value in trial.overrides)
        print(f"{trial.score:.4f}  epoch {trial.epoch:>3}  {changes}", file=sys.stderr)
    best = study.dataset.hyperparameters(
        task,
        options.backbone,
        cut=spec.keep_last is not None,
        quick=options.quick,
        overrides=dict(found[0].overrides),
    ).as_dict()
    print(f"# validation NDCG@10 {found[0].score:.4f}: {study.command}")
    print(toml.dumps({task: {options.backbone: best}}), end="")
    return []
