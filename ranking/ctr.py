"""Train MaskNet and measure what rationales add to it: ``python -m ranking.ctr --project D --output ctr.json``.

Four rankers see the same rows: profiles and behaviour alone; the same with rationales; and two controls,
whose rationales are dealt out to other users or are the same for everybody. A gain that a control has
too is no gain of the rationales. Intervals are over resampled users.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.nn import functional

from ranking.checkpoints import write_checkpoint
from ranking.controls import CONSTANT, RATIONALES, SHUFFLED
from ranking.ctr_data import CtrData, CtrRows, Labels
from ranking.ctr_metrics import METRICS, Measured, difference, mean
from ranking.device import chosen_device, kept_weights, on_device, seeded
from ranking.fitting import TrainingDivergedError
from ranking.masknet import MaskNet, MaskNetSettings
from ranking.project import RankingProject
from ranking.services import USER_SERVICE
from ranking.setting_limits import check_limits
from ranking.trained_facts import trained_on
from reland_features.artifacts import write_atomically
from reland_features.errors import ConfigError, RelandError
from reland_features.feast import open_store
from reland_features.process import leave

BASELINE = "profiles and behaviour"
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


def compare(
    data: CtrData, shape: MaskNetSettings, settings: CtrSettings, *, seeds: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Train and test the four rankers, `seeds` times each, and return what the JSON holds.

    Raises
    ------
    ConfigError
        `seeds` is below 1.
    TableError
        A metric is undefined on the test rows.
    """
    if seeds < 1:
        raise ConfigError("each ranker is trained at least once", where="seeds", got=seeds, expected="1 or more")
    measured: dict[str, list[Measured]] = {}
    label, seconds = data.test.label.cpu().numpy(), {}
    # Labels alone decide whether a metric is defined: say so before training, not after.
    even = Measured(label, np.full(len(label), 0.5), data.test.group)
    for metric in METRICS:
        even.value(metric)
    for name, given, rationales in (
        (BASELINE, data, False),
        (RATIONALES, data, True),
        (SHUFFLED, data.shuffled(0), True),
        (CONSTANT, data.constant(), True),
    ):
        fits = []
        for seed in range(seeds):
            fits.append(fit(given, replace(shape, rationales=rationales), settings, seed=seed))
            report(f"train {name}, seed {seed}: {len(fits[-1].curve)} epochs, {fits[-1].seconds:.0f} s")
        measured[name] = [Measured(label, predict(one.model, given, data.test), data.test.group) for one in fits]
        seconds[name] = float(np.mean([one.seconds for one in fits]))
    return {
        "protocol": data.protocol,
        "training_seeds": seeds,
        "masknet": asdict(shape),
        "rows": {"train": len(data.train.label), "test": len(data.test.label)},
        "users": measured[BASELINE][0].users,
        "coverage": float((data.users.seed[data.test.user] >= 0).float().mean()),
        "rankers": [
            {"name": name, **{metric: mean(runs, metric) for metric in METRICS}, "seconds": seconds[name]}
            for name, runs in measured.items()
        ],
        "differences": [
            {
                "ranker": RATIONALES,
                "against": against,
                "role": role,
                "metric": metric,
                **asdict(difference(measured[RATIONALES], measured[against], metric)),
            }
            for against, role in ((BASELINE, "baseline"), (SHUFFLED, "control"), (CONSTANT, "control"))
            for metric in METRICS
        ],
    }


def table(metrics: dict[str, Any]) -> str:
    """Return the metrics as text: rankers, then differences with their intervals."""
    lines = [metrics["protocol"], f"{metrics['coverage']:.1%} of test rows have a rationale", ""]
    lines.append(f"{'':<24}" + "".join(f"{metric:>10}" for metric in METRICS))
    for ranker in metrics["rankers"]:
        lines.append(f"{ranker['name']:<24}" + "".join(f"{ranker[metric]:10.4f}" for metric in METRICS))
    lines.append("")
    for row in metrics["differences"]:
        lines.append(
            f"{row['metric']:<9} {row['ranker']} - {row['against']:<24} {row['value']:+.4f} "
            f"(95% {row['low']:+.4f} to {row['high']:+.4f})"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Compare the rankers, print the table and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m ranking.ctr", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder with reland.toml")
    parser.add_argument("--output", type=Path, help="where to write the metrics as JSON")
    parser.add_argument("--labels", choices=get_args(Labels), help="impressions where there are any, unless given")
    parser.add_argument("--kind", choices=["parallel", "serial"], default="parallel", help="arrangement of the blocks")
    parser.add_argument("--candidates", type=int, help="items per held-out event, at least 2")
    parser.add_argument("--max-users", type=int, help="sample of users; 0 is everyone")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each ranker")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto: a GPU where there is one")
    options = parser.parse_args(arguments)
    try:
        device = chosen_device(options.device)
        project = RankingProject.open(options.project)
        candidates = project.evaluation.candidates if options.candidates is None else options.candidates
        data = CtrData.of(
            project,
            open_store(project.repository),
            labels=options.labels,
            candidates=candidates,
            max_users=project.sample_size(options.max_users),
            seed=project.seed,
        )
        metrics = compare(
            on_device(data, device),
            MaskNetSettings(kind=options.kind),
            CtrSettings(),
            seeds=options.seeds,
            report=lambda line: print(line, file=sys.stderr),
        )
    except RelandError as error:
        print(error, file=sys.stderr)
        return 1
    metrics = {"features_run": project.features_run, "pool_version": project.pool_version, **metrics}
    print(table(metrics))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    leave(main())
