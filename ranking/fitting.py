"""Train a backbone with early stopping on the validation part's NDCG@10."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ranking.backbones.base import Backbone
from ranking.device import device_of, on_device, seeded
from ranking.full_ranking import K, RankingMetrics, full_ranking
from ranking.memory import reuse_freed_memory
from ranking.setting_limits import check_limits
from ranking.splits import Part
from ranking.training_course import training_course
from ranking.training_state import Evaluation, TrainingState
from reland_features.errors import ConfigError, RelandError


class TrainingDivergedError(RelandError):
    """A loss is not finite, and nothing was learnt from that batch; or a validation score is NaN."""


@dataclass(frozen=True)
class FitSettings:
    """How a backbone is trained.

    Parameters
    ----------
    learning_rate, weight_decay : float
        Of Adam.
    schedule : {"constant", "cosine"}
        Whether the learning rate stays, or falls to zero by half a cosine over `max_epochs` epochs. A constant rate
        ends in noise that patience waits out; a falling one takes fewer epochs (MovieLens 1M: 24 instead of 82 for
        GRU4Rec), but `max_epochs` is then a hyperparameter as the rate is.
    max_epochs : int
        Upper bound.
    patience : int
        Evaluations without a better validation NDCG@10 before training stops (10 in RecBole and the paper). Where the
        rate falls, the best weights come late: give it enough to reach them.
    evaluate_every : int
        Epochs between two evaluations.
    validation_users : int, optional
        Stop on a uniform sample of so many users, where ranking for everyone takes longer than an epoch;
        the same users for every run of a split. None is everyone.
    convention : {"unmasked", "masked"}
        Which NDCG@10 decides, see `ranking.full_ranking`.

    Raises
    ------
    ConfigError
        There is no such schedule or convention, or a number is out of range.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    max_epochs: int = 200
    patience: int = 10
    evaluate_every: int = 1
    validation_users: int | None = None
    convention: Literal["unmasked", "masked"] = "masked"

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no training can be done with, before any of it is."""
        for name, known in (("schedule", ("constant", "cosine")), ("convention", ("unmasked", "masked"))):
            if (got := getattr(self, name)) not in known:
                raise ConfigError(f"no such {name}", where=f"fit.{name}", got=got, expected=" or ".join(known))
        sampled = () if self.validation_users is None else ("validation_users",)
        check_limits(
            vars(self),
            "fit",
            above_zero=("learning_rate",),
            not_negative=("weight_decay",),
            counts=("max_epochs", "patience", "evaluate_every", *sampled),
        )

    def rate_of(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / self.max_epochs)) / 2

    def as_dict(self) -> dict[str, Any]:
        """Return them as plain values; a constant schedule, which was once the only one, is not named."""
        values = asdict(self)
        if self.schedule == "constant":
            del values["schedule"]
        return values

    def course(self) -> dict[str, Any]:
        """Return those that decide the course of a training, not when it stops.

        One may go on for longer, unless the learning rate falls towards that end.
        """
        ends = ("patience",) if self.schedule == "cosine" else ("patience", "max_epochs")
        return {name: value for name, value in self.as_dict().items() if name not in ends}


@dataclass(frozen=True)
class Fit:
    """What training did; the backbone holds the weights of `best_epoch`."""

    curve: tuple[Evaluation, ...]
    best_epoch: int
    best: dict[str, float]
    epochs: int
    seconds: float


def fit(
    backbone: Backbone,
    settings: FitSettings | None = None,
    *,
    seed: int = 0,
    progress: Callable[[Evaluation], None] | None = None,
    state_file: Path | None = None,
) -> Fit:
    """Train until the validation NDCG@10 has not risen for `patience` evaluations, and keep the best weights.

    It is trained where its parameters are: ``fit(backbone.to("cuda"))`` trains on a GPU.

    Parameters
    ----------
    progress : callable, optional
        Called with every evaluation.
    state_file : Path, optional
        Where the state of training is kept after every evaluation. Is there one, of a training with the same arguments
        that was killed, then this one goes on from there, and with one thread ends in the same weights.

    Raises
    ------
    TrainingDivergedError
        A loss is not finite, or a validation score is NaN.
    ArtifactError
        `state_file` is damaged, or is of a training with other arguments.
    """
    settings = settings or FitSettings()
    reuse_freed_memory()
    generator = np.random.default_rng(seed)
    users = _sample(backbone, settings.validation_users)
    metric = f"ndcg@{K}_{settings.convention}"
    with seeded(seed, device_of(backbone)):
        weights = list(backbone.parameters())
        if not weights:  # a floor: counting was all there was to learn
            metrics = evaluate(backbone, "validation", users).means()
            return Fit((Evaluation(0, 0.0, 0.0, metrics),), 0, metrics, 0, 0.0)
        optimizer = torch.optim.Adam(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        decided_by = training_course(backbone, settings.course(), seed) if state_file else {}
        state = (
            TrainingState.resume(state_file, backbone, optimizer, generator, decided_by)
            if state_file
            else TrainingState()
        )
        while state.epoch < settings.max_epochs and state.since < settings.patience:
            for group in optimizer.param_groups:
                group["lr"] = settings.rate_of(state.epoch + 1)
            started = time.process_time()
            loss = train_epoch(backbone, optimizer, generator)
            state.seconds += time.process_time() - started
            state.epoch += 1
            if state.epoch % settings.evaluate_every and state.epoch != settings.max_epochs:
                continue
            metrics = _validate(backbone, users, state.epoch)
            state.evaluated(Evaluation(state.epoch, loss, state.seconds, metrics), metrics[metric], backbone)
            if state_file:
                state.write(state_file, backbone, optimizer, generator, decided_by)
            if progress:
                progress(state.curve[-1])
    if state.best_weights is not None:
        backbone.load_state_dict(state.best_weights)
    backbone.eval()
    best = next((point.metrics for point in state.curve if point.epoch == state.best_epoch), {})
    return Fit(tuple(state.curve), state.best_epoch, best, state.curve[-1].epoch if state.curve else 0, state.seconds)


def train_epoch(backbone: Backbone, optimizer: torch.optim.Optimizer, generator: np.random.Generator) -> float:
    """Take one pass over the training part; return the mean loss of its batches."""
    backbone.train()
    device = device_of(backbone)
    total, steps = 0.0, 0
    for number, batch in enumerate(backbone.batches(generator)):
        optimizer.zero_grad()
        loss = backbone.loss(on_device(batch, device))
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingDivergedError(
                "the loss is not finite",
                where=f"{type(backbone).__name__}, batch {number} of the epoch",
                got=value,
                hint="lower learning_rate, or look for NaN in the features",
            )
        loss.backward()
        optimizer.step()
        total, steps = total + value, steps + 1
    return total / max(steps, 1)


def _validate(backbone: Backbone, users: np.ndarray | None, epoch: int) -> dict[str, float]:
    try:
        return evaluate(backbone, "validation", users).means()
    except RelandError as error:
        if type(error) is not RelandError:  # what full_ranking says of NaN has no class of its own
            raise
        raise TrainingDivergedError(
            error.what,
            where=f"{type(backbone).__name__}, validation after epoch {epoch}",
            got=error.got,
            hint=error.hint,
        ) from error


def _sample(backbone: Backbone, count: int | None) -> np.ndarray | None:
    users = np.unique(backbone.split.targets("validation")[0])
    if count is None or count >= len(users):
        return None
    return np.sort(np.random.default_rng(0).choice(users, size=count, replace=False))


def evaluate(backbone: Backbone, part: Part, users: np.ndarray | None = None) -> RankingMetrics:
    """Return the metrics of a backbone's full ranking."""
    backbone.eval()
    with torch.inference_mode():
        return full_ranking(backbone.scorer(part), backbone.split, part, users=users)
