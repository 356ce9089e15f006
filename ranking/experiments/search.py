"""Search a backbone's hyperparameters by their validation NDCG@10, and print the best as TOML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ranking.experiments import toml, trials
from ranking.experiments.dataset import task_of
from ranking.experiments.options import add_cut
from ranking.experiments.study import Study
from reland_features.config import assignment
from reland_features.errors import ConfigError

_GRID = "fit.learning_rate=[1e-3,5e-4]"
SUMMARY = "search hyperparameters on the validation part; prints the best as TOML"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--variant", default="id")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="all combinations if there are no more")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=LIST",
        help=f"search these instead of the lists in the data set's file, e.g. {_GRID}; a value alone is held",
    )
    add_cut(parser)


def run(study: Study) -> list[Path]:
    """Train every combination, or a random sample of them, measure the validation part for all users, and print."""
    options, task = study.options, task_of(study.options.backbone)
    spec = study.spec(options.backbone, options.variant)
    found = trials.search(study.runner, [spec], options.trials, grid_of(options.grid))[spec]
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


def grid_of(given: Sequence[str]) -> dict[str, list[Any]]:
    """Return the lists of every ``KEY=LIST``.

    Raises
    ------
    ConfigError
        One is no ``KEY=LIST``, has an empty list, or names a key for the second time.
    """
    grid: dict[str, list[Any]] = {}
    for text in given:
        key, value = assignment(text, "--grid", _GRID)
        problem = ""
        if key in grid:
            problem = "names a key for the second time"
        elif value == [] or (isinstance(value, str) and value.lstrip().startswith("[")):
            problem = "takes a list as TOML writes it, of one value at least"
        if problem:
            raise ConfigError(f"--grid {problem}", where="--grid", got=text, expected=_GRID)
        grid[key] = value if isinstance(value, list) else [value]
    return grid
