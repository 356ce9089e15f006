"""Fit MaskNet on impressions or on held-out events: the model that is measured, and the one that is served."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ranking.checkpoints import write_checkpoint
from ranking.ctr_data import CtrData, CtrRows
from ranking.device import chosen_device, kept_weights, on_device, seeded
from ranking.fitting import TrainingDivergedError
from ranking.masknet import MaskNet, MaskNetSettings
from ranking.project import RankingProject
from ranking.services import USER_SERVICE
from ranking.setting_limits import check_limits
from ranking.trained_facts import trained_on
from reland_features.feast import open_store

_VALIDATION = 10  # one user in ten
_SCORED_ROWS = 16_384


@dataclass(frozen=True)
class CtrSettings:
    """How MaskNet is trained.

    Parameters
    ----------
    learning_rate, weight_decay : float
        Of Adam.
    batch : int
        Rows per step.
    max_epochs, patience : int
        Training stops when the log loss on a tenth of the users has not fallen for `patience` epochs.

    Raises
    ------
    ConfigError
        A number is out of range.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-6
    batch: int = 1024
    max_epochs: int = 10
    patience: int = 2

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that no training can be done with."""
        check_limits(
            vars(self),
            "ctr",
            above_zero=("learning_rate",),
            not_negative=("weight_decay",),
            counts=("batch", "max_epochs", "patience"),
        )


@dataclass(frozen=True)
class CtrFit:
    """A trained MaskNet in evaluation mode, and its log loss on the validation users after each epoch."""

    model: MaskNet
    curve: tuple[float, ...]
    seconds: float


def fit(
    data: CtrData, shape: MaskNetSettings | None = None, settings: CtrSettings | None = None, *, seed: int = 0
) -> CtrFit:
    """Train on binary cross-entropy, where the data are, and keep the weights of the best epoch.

    Raises
    ------
    TrainingDivergedError
        A loss is not finite, or a validation score is NaN.
    """
    settings = settings or CtrSettings()
    held = data.train.group % _VALIDATION == _VALIDATION - 1
    # With too few users to spare any, stop on the training rows.
    kept, validation = (
        (data.train.part(~held), data.train.part(held)) if _spares(data.train, held) else [data.train] * 2
    )
    started = time.perf_counter()
    curve: list[float] = []
    best: dict[str, torch.Tensor] = {}
    device = data.train.label.device
    with seeded(seed, device):
        model = MaskNet(data.encoder.sizes, shape or MaskNetSettings()).to(device)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for _ in range(settings.max_epochs):
            _train_epoch(model, data, kept, optimizer, settings.batch)
            probability = torch.from_numpy(predict(model, data, validation))
            # The last step of an epoch has no later batch whose loss would tell what it did.
            if broken := int(probability.isnan().sum()):
                raise TrainingDivergedError(
                    "NaN scores cannot be measured",
                    where=f"MaskNet, validation after epoch {len(curve) + 1}",
                    got=f"{broken:,} of {len(probability):,} rows",
                    hint="lower learning_rate",
                )
            curve.append(float(functional.binary_cross_entropy(probability, validation.label.cpu())))
            if curve[-1] == min(curve):
                best = kept_weights(model)
            if len(curve) - 1 - int(np.argmin(curve)) >= settings.patience:
                break
    model.load_state_dict(best)
    return CtrFit(model.eval(), tuple(curve), time.perf_counter() - started)


def train(
    project: RankingProject,
    shape: MaskNetSettings | None = None,
    settings: CtrSettings | None = None,
    *,
    device: str = "cpu",
    max_users: int | None = None,
    across_pools: bool = False,
) -> Path:
    """Train the MaskNet that is served and make it the project's current one; return its folder.

    Parameters
    ----------
    across_pools : bool
        Leave the users' clusters out, which mean something within one pool only.
    max_users : int, optional
        Learn from a uniform sample of so many users, `evaluation.max_users` unless given; 0 is everyone. Items and
        profiles that nobody in it has take the unknown rows.
    """
    shape, place = shape or MaskNetSettings(), chosen_device(device)
    trained = trained_on(project, across_pools=across_pools)
    data = CtrData.of(
        project,
        open_store(project.repository),
        candidates=project.evaluation.candidates,
        max_users=project.sample_size(max_users),
        seed=project.seed,
        across_pools=across_pools,
    )
    fitted = fit(on_device(data, place), shape, settings, seed=project.seed)
    facts = {
        **trained,
        "service": USER_SERVICE,
        "as_of": project.as_of.isoformat(),
        "protocol": data.protocol,
        "settings": asdict(shape),
        "validation_log_loss": min(fitted.curve),
        "encoder": data.encoder.as_dict(),
    }
    return write_checkpoint(fitted.model.state_dict(), facts, project.models / "masknet")


def predict(model: MaskNet, data: CtrData, rows: CtrRows) -> np.ndarray:
    """Return the probability of a click for every row, float32 [n]."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(data.users, data.items, user, item).sigmoid()
            for user, item in zip(rows.user.split(_SCORED_ROWS), rows.item.split(_SCORED_ROWS), strict=True)
        ]
    return torch.cat(parts).cpu().numpy()


def _spares(rows: CtrRows, held: np.ndarray) -> bool:
    return all(len(rows.label[torch.from_numpy(mask)].unique()) == 2 for mask in (held, ~held))


def _train_epoch(model: MaskNet, data: CtrData, rows: CtrRows, optimizer: torch.optim.Optimizer, batch: int) -> None:
    model.train()
    for number, chosen in enumerate(torch.randperm(len(rows.label)).split(batch)):
        optimizer.zero_grad()
        logits = model(data.users, data.items, rows.user[chosen], rows.item[chosen])
        loss = functional.binary_cross_entropy_with_logits(logits, rows.label[chosen])
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                "the loss is not finite",
                where=f"MaskNet, batch {number} of the epoch",
                got=float(loss),
                hint="lower learning_rate",
            )
        loss.backward()
        optimizer.step()
