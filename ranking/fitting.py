"""Train a backbone with early stopping on the validation part's NDCG@10."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ranking.backbones.base import Backbone
from ranking.full_ranking import K, RankingMetrics, full_ranking
from ranking.memory import reuse_freed_memory
from ranking.splits import Part
from reland_features.errors import RelandError


class TrainingDivergedError(RelandError):
    """A loss is not finite; nothing was learnt from that batch."""


@dataclass(frozen=True)
class FitSettings:
    """How a backbone is trained.

    Parameters
    ----------
    learning_rate, weight_decay : float
        Of Adam.
    max_epochs : int
        Upper bound.
    patience : int
        Evaluations without a better validation NDCG@10 before training stops (10 in RecBole and the paper).
    evaluate_every : int
        Epochs between two evaluations.
    validation_users : int, optional
        Stop on a uniform sample of so many users, where ranking for everyone takes longer than an epoch;
        the same users for every run of a split. None is everyone.
    convention : {"unmasked", "masked"}
        Which NDCG@10 decides, see `ranking.full_ranking`.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_epochs: int = 200
    patience: int = 10
    evaluate_every: int = 1
    validation_users: int | None = None
    convention: Literal["unmasked", "masked"] = "masked"


@dataclass(frozen=True)
class Evaluation:
    """One point of the learning curve; seconds are CPU seconds of training alone, summed up to here.

    CPU seconds, because runs share a machine: with one thread they are what an idle machine takes.
    """

    epoch: int
    loss: float
    seconds: float
    metrics: dict[str, float]


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
) -> Fit:
    """Train until the validation NDCG@10 has not risen for `patience` evaluations, and keep the best weights.

    Raises
    ------
    TrainingDivergedError
        A loss or the validation scores are not finite.
    """
    settings = settings or FitSettings()
    reuse_freed_memory()
    generator = np.random.default_rng(seed)
    users = _sample(backbone, settings.validation_users)
    metric = f"ndcg@{K}_{settings.convention}"
    best_value, best_state, best_epoch = -1.0, None, 0
    curve: list[Evaluation] = []
    seconds, since = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = list(backbone.parameters())
        if not weights:  # a floor: counting was all there was to learn
            metrics = evaluate(backbone, "validation", users).means()
            return Fit((Evaluation(0, 0.0, 0.0, metrics),), 0, metrics, 0, 0.0)
        optimizer = torch.optim.Adam(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        for epoch in range(1, settings.max_epochs + 1):
            started = time.process_time()
            loss = train_epoch(backbone, optimizer, generator)
            seconds += time.process_time() - started
            if epoch % settings.evaluate_every and epoch != settings.max_epochs:
                continue
            metrics = evaluate(backbone, "validation", users).means()
            curve.append(Evaluation(epoch, loss, seconds, metrics))
            if progress:
                progress(curve[-1])
            since += 1
            if metrics[metric] > best_value:
                best_value, best_epoch, since = metrics[metric], epoch, 0
                best_state = copy.deepcopy(backbone.state_dict())
            if since >= settings.patience:
                break
    if best_state is not None:
        backbone.load_state_dict(best_state)
    backbone.eval()
    best = next((point.metrics for point in curve if point.epoch == best_epoch), {})
    return Fit(tuple(curve), best_epoch, best, curve[-1].epoch if curve else 0, seconds)


def train_epoch(backbone: Backbone, optimizer: torch.optim.Optimizer, generator: np.random.Generator) -> float:
    """Take one pass over the training part; return the mean loss of its batches."""
    backbone.train()
    total, steps = 0.0, 0
    for number, batch in enumerate(backbone.batches(generator)):
        optimizer.zero_grad()
        loss = backbone.loss(batch)
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
