"""Measure what rationales add to MaskNet: ``python -m ranking.ctr --project D --output ctr.json``.

Four rankers see the same rows: profiles and behaviour alone; the same with rationales; and two controls,
whose rationales are dealt out to other users or are the same for everybody. A gain that a control has
too is no gain of the rationales. Intervals are over resampled users.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ranking.controls import CONSTANT, RATIONALES, SHUFFLED
from ranking.ctr_data import CtrData, Labels
from ranking.ctr_fitting import CtrSettings, fit, predict
from ranking.ctr_metrics import METRICS, Measured, difference, mean
from ranking.device import chosen_device, on_device
from ranking.masknet import MaskNetSettings
from ranking.project import RankingProject
from reland_features.artifacts import write_atomically
from reland_features.errors import ConfigError, RelandError
from reland_features.feast import open_store
from reland_features.process import leave

BASELINE = "profiles and behaviour"


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
