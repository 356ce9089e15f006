"""What a training needs to go on after a kill: weights, optimizer, random generators, and the best epoch so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranking.device import CPU, device_of, generator_state, kept_weights, on_device, set_generator_state
from reland_features.artifacts import sync


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
        self, path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, generator: np.random.Generator
    ) -> None:
        """Write everything to a file, in one step: a kill leaves the former state or this one."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "curve"}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        torch.save(
            {
                "state": own | {"curve": [asdict(point) for point in self.curve]},
                "model": on_device(dict(model.state_dict()), CPU),
                "optimizer": on_device(optimizer.state_dict(), CPU),
                "torch_generator": torch.get_rng_state(),
                "device_generator": generator_state(device_of(model)),
                "numpy_generator": generator.bit_generator.state,
            },
            temporary,
        )
        sync(temporary)
        temporary.replace(path)

    @classmethod
    def resume(
        cls, path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, generator: np.random.Generator
    ) -> TrainingState:
        """Read what `write` wrote into a model, an optimizer and the generators; a new state where there is no file."""
        if not path.is_file():
            return cls()
        read: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(read["model"])
        optimizer.load_state_dict(read["optimizer"])
        torch.set_rng_state(read["torch_generator"])
        set_generator_state(read.get("device_generator"), device_of(model))
        generator.bit_generator.state = read["numpy_generator"]
        curve = [Evaluation(**point) for point in read["state"].pop("curve")]
        return cls(**read["state"], curve=curve)
