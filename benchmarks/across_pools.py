"""Measure what a served ranker loses across pools: columns that it leaves out, and the next pool.

    python -m benchmarks.across_pools --projects experiments ml-1m/sequential-strong ml-1m/sequential-next

XGBoost and MaskNet are trained on the first project's features as `ranking.train` does, with and without
`--across-pools`, and tested on the same rows with the first project's features and with the second's. The projects are
those of `python -m ranking.experiments prepare`, of the same tables. SASRec: `python -m ranking.experiments next_pool`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import machine
from benchmarks.projects import RESULTS
from ranking import train
from ranking.ctr_data import CtrData
from ranking.ctr_fitting import fit, predict
from ranking.ctr_metrics import Measured, difference, mean
from ranking.dataset import TEST, TRAIN, ranking_queries
from ranking.metrics import paired_bootstrap, query_metrics
from ranking.project import RankingProject
from ranking.tabular import RATIONALE_SERVICE, rationale_features
from ranking.training_frame import training_frame
from reland_features.feast import open_store

OF_ONE, ACROSS, NEXT = "of one pool", "across pools", "across pools, next pool"
_PAIRS = ((ACROSS, OF_ONE), (NEXT, ACROSS))


@dataclass(frozen=True)
class Compared:
    """Figures of one ranker in three settings, and differences with 95 % intervals over users."""

    ranker: str
    metric: str
    values: dict[str, float]
    differences: dict[tuple[str, str], tuple[float, float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", metavar="DATASET/PROJECT", help="the pool of training")
    parser.add_argument("next", metavar="DATASET/NEXT", help="the next pool")
    parser.add_argument("--max-users", type=int, default=0, metavar="N", help="sample of users; 0 is everyone")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each ranker")
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    parser.add_argument("--projects", type=Path, default=Path("experiments"), metavar="ROOT")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args()
    now, later = (RankingProject.open(options.projects / name) for name in (options.project, options.next))
    if now.marts.name != later.marts.name:
        parser.error(f"the projects were made of other tables: {now.marts.name} and {later.marts.name}")
    users = options.max_users or None
    found = [xgboost(now, later, users, options.seeds), masknet(now, later, users, options.seeds)]
    sample = f" --max-users {options.max_users}" if options.max_users else ""
    command = f"python -m benchmarks.across_pools --projects DIR{sample} --seeds {options.seeds}"
    text = render(f"{command} {options.project} {options.next}", found, machine(), options.note)
    (options.results / f"across_pools_{options.project.partition('/')[0]}.md").write_text(text)
    print(text)


def xgboost(now: RankingProject, later: RankingProject, users: int | None, seeds: int) -> Compared:
    """Compare NDCG@10 of XGBoost, the mean over trainings."""
    size = {"candidates": now.evaluation.candidates, "max_users": users, "seed": now.seed}
    parts = [ranking_queries(now, part, **size) for part in (TRAIN, TEST)]
    learned, tested = (training_frame(open_store(now.repository), part.frame, RATIONALE_SERVICE) for part in parts)
    moved = training_frame(open_store(later.repository), parts[1].frame, RATIONALE_SERVICE)
    query, label = (tested[column].to_numpy() for column in ("query", "label"))
    ndcg: dict[str, list[np.ndarray]] = {OF_ONE: [], ACROSS: [], NEXT: []}

    def measure(name: str, ranker: train.Ranker, frame: pl.DataFrame) -> None:
        ndcg[name].append(query_metrics(query, label, ranker.score(frame), k=10).ndcg)

    for seed in range(seeds):
        measure(OF_ONE, train.fit(rationale_features(learned), learned, seed=seed), tested)
        across = train.fit(rationale_features(learned, across_pools=True), learned, seed=seed)
        measure(ACROSS, across, tested)
        measure(NEXT, across, moved)
    means = {name: np.mean(values, axis=0) for name, values in ndcg.items()}
    intervals = {pair: paired_bootstrap(means[pair[0]], means[pair[1]], seed=now.seed) for pair in _PAIRS}
    return Compared(
        "XGBoost",
        "NDCG@10",
        {name: float(values.mean()) for name, values in means.items()},
        {pair: (found.value, found.low, found.high) for pair, found in intervals.items()},
    )


def masknet(now: RankingProject, later: RankingProject, users: int | None, seeds: int) -> Compared:
    """Compare MaskNet's AUC within users, the mean over trainings."""
    size = {"labels": "holdout", "candidates": now.evaluation.candidates, "max_users": users, "seed": now.seed}
    given = {
        OF_ONE: CtrData.of(now, open_store(now.repository), **size),
        ACROSS: CtrData.of(now, open_store(now.repository), **size, across_pools=True),
        NEXT: CtrData.of(later, open_store(later.repository), **size, across_pools=True),
    }
    if given[NEXT].encoder != given[ACROSS].encoder:
        raise SystemExit("the projects' rows encode differently: they were not made of the same tables")
    trained = {name: [fit(given[name], seed=seed).model for seed in range(seeds)] for name in (OF_ONE, ACROSS)}
    trained[NEXT] = trained[ACROSS]
    measured = {
        name: [
            Measured(data.test.label.numpy(), predict(model, data, data.test), data.test.group)
            for model in trained[name]
        ]
        for name, data in given.items()
    }
    metric = "user_auc"
    intervals = {pair: difference(measured[pair[0]], measured[pair[1]], metric) for pair in _PAIRS}
    return Compared(
        "MaskNet",
        "AUC within users",
        {name: mean(runs, metric) for name, runs in measured.items()},
        {pair: (found.value, found.low, found.high) for pair, found in intervals.items()},
    )


def render(command: str, found: list[Compared], on: str, note: str) -> str:
    """Return the page."""
    lines = [
        "# What a served ranker loses across pools",
        "",
        f"`{command}`",
        "",
        f"Machine: {on}" + (f". {note}" if note else ""),
        "",
        f"*{OF_ONE.capitalize()}*: with PCA components and cluster (XGBoost) or cluster (MaskNet), tested on its own "
        f"pool. *{ACROSS.capitalize()}*: without them, on the same pool. *Next pool*: that ranker, not trained again, "
        "with the features of the second project. Held-out events against uniform draws; means over trainings, "
        "intervals over users.",
        "",
        f"| ranker | metric | {OF_ONE} | {ACROSS} | {NEXT} | " + " | ".join(f"{a} − {b}" for a, b in _PAIRS) + " |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found:
        values = " | ".join(f"{each.values[name]:.4f}" for name in (OF_ONE, ACROSS, NEXT))
        spans = " | ".join("{:+.4f} ({:+.4f} to {:+.4f})".format(*each.differences[pair]) for pair in _PAIRS)
        lines.append(f"| {each.ranker} | {each.metric} | {values} | {spans} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
