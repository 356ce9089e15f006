"""Search hyperparameters by NDCG@10 on the validation part; nothing here ranks the test part."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranking.backbones import FLOORS
from ranking.experiments.runner import Runner
from ranking.experiments.runs import Run, RunSpec
from ranking.experiments.variants import main_of
from reland_features.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    """One combination of hyperparameters.

    Parameters
    ----------
    overrides : tuple of (str, value)
        As in `RunSpec`.
    score : float
        NDCG@10 of the validation part over all users, by the convention that training stopped by.
    epoch : int
        The best one.
    """

    overrides: tuple[tuple[str, Any], ...]
    score: float
    epoch: int


def search(
    runner: Runner, specs: Sequence[RunSpec], count: int, grid: Mapping[str, Sequence[Any]] | None = None
) -> dict[RunSpec, list[Trial]]:
    """Train every combination of each spec's lists, or `count` of them drawn at random; return the best first.

    All specs of a backbone try the same combinations. Trials are kept beside the projects, not among results.

    Parameters
    ----------
    grid : mapping, optional
        Lists by ``options.<name>`` or ``fit.<name>``, in place of those of the data set's file.

    Raises
    ------
    ConfigError
        The data set's file has no lists for a backbone, or the count is below 1.
    """
    tried = {spec: _trials(runner, spec, count, grid) for spec in specs}
    beside = dataclasses.replace(runner, results=runner.projects / "searches", keep_weights=False, part="validation")
    runs = beside.run_all([each for of in tried.values() for each in of])
    return {
        spec: sorted(
            (Trial(each.overrides, _score(runs[each]), runs[each].facts["best_epoch"]) for each in of),
            key=lambda trial: -trial.score,
        )
        for spec, of in tried.items()
    }


def tuned(runner: Runner, specs: Sequence[RunSpec], count: int) -> dict[RunSpec, RunSpec]:
    """Return each spec with the best hyperparameters of its variant; a control takes those of what it controls.

    A gain over the controls is thus measured at the variant's own best settings only, which leans towards the variant;
    the base has its own.

    Floors learn nothing and are left out. One seed is searched. What is as in the data set's file is no override, so
    that the run is the same as without a search.
    """
    specs = [spec for spec in specs if spec.backbone not in FLOORS]
    searched = {spec: dataclasses.replace(spec, variant=main_of(spec.variant), seed=0) for spec in specs}
    best = {spec: found[0] for spec, found in search(runner, list(dict.fromkeys(searched.values())), count).items()}
    return {spec: dataclasses.replace(spec, overrides=_changes(runner, spec, best[searched[spec]])) for spec in specs}


def combinations(space: Mapping[str, Sequence[Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
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


def _trials(runner: Runner, spec: RunSpec, count: int, grid: Mapping[str, Sequence[Any]] | None) -> list[RunSpec]:
    cut = spec.keep_last is not None
    space = grid or runner.dataset.search_space(spec.task, spec.backbone, cut=cut, quick=spec.quick)
    if not space or count < 1:
        raise ConfigError(
            "there is nothing to search",
            where=f"{runner.dataset.name}.toml, [{spec.task}.{spec.backbone}.search]",
            got=f"{len(space)} lists, --trials {count}",
            expected='"fit.learning_rate" = [1e-3, 5e-4] and at least one trial',
        )
    return [dataclasses.replace(spec, overrides=tuple(trial.items())) for trial in combinations(space, count)]


def _changes(runner: Runner, spec: RunSpec, trial: Trial) -> tuple[tuple[str, Any], ...]:
    cut = spec.keep_last is not None
    held = runner.dataset.hyperparameters(spec.task, spec.backbone, cut=cut, quick=spec.quick).as_dict()
    parts = [(key.partition("."), value) for key, value in trial.overrides]
    return tuple(
        (f"{part}.{name}", value) for (part, _, name), value in parts if held[part].get(name, _ABSENT) != value
    )


def _score(run: Run) -> float:
    return float(run.values("ndcg", run.facts["hyperparameters"]["fit"]["convention"]).mean())


_ABSENT = object()
