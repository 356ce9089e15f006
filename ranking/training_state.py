"""What a training needs to go on after a kill: weights, optimizer, random generators, and the best epoch so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranking.device import CPU, device_of, generator_state, kept_weights, on_device, set_generator_state
from reland_features.artifacts import whole_file
from reland_features.errors import ArtifactError

_PARTS = {"state", "model", "optimizer", "torch_generator", "numpy_generator"}
_RECORDED_LATER = {"validation part", "kind"}  # of a fusion; a file from before is taken at its word for them
_HINT = "delete it to start anew"


@dataclass(frozen=True)
class Evaluation:
    """One point of the learning curve; seconds are CPU seconds of training alone, summed up to here.

    CPU seconds, because runs share a machine: with one thread they are what an idle machine takes.
    """

    epoch: int
    loss: float
    seconds: float
    metrics: dict[str, float]


@dataclass
class TrainingState:
    """Where a training stands after an epoch.

    Parameters
    ----------
    epoch : int
        Epochs done.
    seconds : float
        CPU seconds of training.
    since : int
        Evaluations since the best one.
    best_value : float
        The validation metric that decides.
    best_weights : dict, optional
        State dictionary of `best_epoch`; None before the first evaluation.
    curve : list of Evaluation
        One point per evaluation.
    """

    epoch: int = 0
    seconds: float = 0.0
    since: int = 0
    best_value: float = -1.0
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] | None = None
    curve: list[Evaluation] = field(default_factory=list)

    def evaluated(self, point: Evaluation, value: float, model: torch.nn.Module) -> None:
        """Take in an evaluation; `value` is its metric that decides."""
        self.curve.append(point)
        self.since += 1
        if value > self.best_value:
            self.best_value, self.best_epoch, self.since = value, point.epoch, 0
            self.best_weights = kept_weights(model)

    def write(
        self,
        path: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: np.random.Generator,
        decided_by: Mapping[str, object],
    ) -> None:
        """Write everything to a file, in one step: a kill leaves the former state or this one.

        Parameters
        ----------
        decided_by : mapping of str to int, float, str or None
            What decides the course of the training, by name: `resume` goes on under the same only.
        """
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "curve"}
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "state": own | {"curve": [asdict(point) for point in self.curve]},
            "model": on_device(dict(model.state_dict()), CPU),
            "optimizer": on_device(optimizer.state_dict(), CPU),
            "torch_generator": torch.get_rng_state(),
            "device_generator": generator_state(device_of(model)),
            "numpy_generator": generator.bit_generator.state,
            "decided_by": dict(decided_by),
        }
        with whole_file(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def resume(
        cls,
        path: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: np.random.Generator,
        decided_by: Mapping[str, object],
    ) -> TrainingState:
        """Read what `write` wrote into a model, an optimizer and the generators; a new state where there is no file.

        Raises
        ------
        ArtifactError
            The file is damaged, or is of another training: its weights have other shapes, or something in
            `decided_by` differs. The model, the optimizer and the generators are then as they were.
        """
        if not path.is_file():
            return cls()
        read = _read(path)
        got, expected = _recorded(read, decided_by), dict(decided_by) | _shapes(model.state_dict())
        differing = [name for name in got | expected if got.get(name) != expected.get(name)]
        if differing:
            raise ArtifactError(
                "the state of training is of another training",
                where=str(path),
                got=_listed(got, differing),
                expected=_listed(expected, differing),
                hint=f"{_HINT}, or train as before",
            )
        model.load_state_dict(read["model"])
        optimizer.load_state_dict(read["optimizer"])
        torch.set_rng_state(read["torch_generator"])
        set_generator_state(read.get("device_generator"), device_of(model))
        generator.bit_generator.state = read["numpy_generator"]
        curve = [Evaluation(**point) for point in read["state"].pop("curve")]
        return cls(**read["state"], curve=curve)


def _read(path: Path) -> dict[str, Any]:
    """Return the parts of a state file; raise ArtifactError where it is damaged."""
    try:
        read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: it depends on where the file is cut off or overwritten
        raise ArtifactError(
            "the state of training cannot be read",
            where=str(path),
            got=str(error).partition("\n")[0] or type(error).__name__,
            hint=_HINT,
        ) from error
    there = read.keys() if isinstance(read, dict) else set()
    if not there >= _PARTS:
        raise ArtifactError(
            "the file is no state of training",
            where=str(path),
            got=", ".join(sorted(map(str, there))) or type(read).__name__,
            expected=", ".join(sorted(_PARTS)),
            hint=_HINT,
        )
    return read


def _recorded(read: Mapping[str, Any], decided_by: Mapping[str, object]) -> dict[str, object]:
    """Return what decided the training that a file is of, and the shapes of its weights."""
    if "decided_by" in read:
        later = {name: value for name, value in decided_by.items() if name.rpartition(".")[2] in _RECORDED_LATER}
        return later | read["decided_by"] | _shapes(read["model"])
    # Files from before it was recorded say this much; they are taken at their word for the rest.
    group = read["optimizer"]["param_groups"][0]
    known = {"learning_rate": group["lr"], "weight_decay": group["weight_decay"]}
    return dict(decided_by) | known | _shapes(read["model"])


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, object]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def _listed(values: Mapping[str, object], names: list[str]) -> str:
    """Return the first few of some values in words."""
    some = [f"{name} {values.get(name, 'is not there')}" for name in names[:5]]
    return ", ".join(some) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
