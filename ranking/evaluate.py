"""Measure what rationales add to a ranker: ``python -m ranking.evaluate --project D --output metrics.json``.

Three rankers see the same training and test queries: the baseline; the same with rationales; and a
control whose rationales are dealt out to other users, which shows what the extra columns give by
themselves. Differences are paired by query, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ranking.dataset import TEST, TRAIN, RankingQueries, ranking_queries
from ranking.metrics import QueryMetrics, paired_bootstrap, query_metrics
from ranking.project import RankingProject
from ranking.tabular import BASELINE_SERVICE, RATIONALE_SERVICE, baseline_features, rationale_features
from ranking.train import fit
from ranking.training_frame import feature_names, training_frame
from reland_features.artifacts import write_atomically
from reland_features.errors import RelandError
from reland_features.feast import open_store
from reland_features.process import leave

if TYPE_CHECKING:
    from feast import FeatureStore

BASELINE, RATIONALES, SHUFFLED = "baseline", "with rationales", "rationales shuffled"
K = 10


@dataclass(frozen=True)
class Frames:
    """Train and test rows with everyone's own rationale, and with somebody else's."""

    train: pl.DataFrame
    test: pl.DataFrame
    shuffled_train: pl.DataFrame
    shuffled_test: pl.DataFrame


def evaluate(project: RankingProject, *, candidates: int | None, max_users: int | None, seed: int) -> dict[str, Any]:
    """Train and test the three rankers and return what `metrics.json` holds.

    Parameters
    ----------
    project : RankingProject
        A project whose features are published and whose repository is applied.
    candidates : int, optional
        Items in each test query; None ranks the whole catalogue. Training always uses the project's
        `evaluation.candidates`.
    max_users : int, optional
        Uniform sample of users.
    seed : int
        Of samples, shuffle, trees and bootstrap.
    """
    sampled = {"max_users": max_users, "seed": seed}
    train = ranking_queries(project, TRAIN, candidates=project.evaluation.candidates, **sampled)  # type: ignore[arg-type]
    test = ranking_queries(project, TEST, candidates=candidates, **sampled)  # type: ignore[arg-type]
    frames = join_features(open_store(project.repository), train, test, seed)
    query, label = (frames.test[name].to_numpy() for name in ("query", "label"))
    measured: dict[str, QueryMetrics] = {}
    for name, features, fitted, tested in (
        (BASELINE, baseline_features(), frames.train, frames.test),
        (RATIONALES, rationale_features(frames.train), frames.train, frames.test),
        (SHUFFLED, rationale_features(frames.train), frames.shuffled_train, frames.shuffled_test),
    ):
        print(f"train {name}: {fitted.height:,} rows, {len(features.names)} columns", file=sys.stderr)
        measured[name] = query_metrics(query, label, fit(features, fitted, seed=seed).score(tested), k=K)
    levels = _activity_levels(project, test.users)
    return {
        "protocol": test.protocol,
        "k": K,
        "seed": seed,
        "features_run": project.features_run,
        "pool_version": project.pool_version,
        "as_of": project.as_of.isoformat(),
        "users": len(test.users),
        "users_by_activity_level": {level: int(rows.sum()) for level, rows in levels.items()},
        "coverage": float(frames.test["rationale_item_cross__has_rationale"].mean()),  # type: ignore[arg-type]
        "rankers": [_ranker(name, metrics, levels) for name, metrics in measured.items()],
        "differences": [
            {"ranker": RATIONALES, "against": against, "metric": f"{metric}@{K}", "level": level, **asdict(interval)}
            for against in (BASELINE, SHUFFLED)
            for metric in ("hit_rate", "ndcg")
            for level, rows in {"all": np.ones(len(test.users), dtype=bool), **levels}.items()
            for interval in [
                paired_bootstrap(
                    getattr(measured[RATIONALES], metric)[rows], getattr(measured[against], metric)[rows], seed=seed
                )
            ]
        ],
    }


def join_features(store: FeatureStore, train: RankingQueries, test: RankingQueries, seed: int) -> Frames:
    """Join every row's features through Feast, twice: as they are, and with rationales of others.

    The shuffle is a permutation of the users, the same for train and test; only the features that the
    baseline does not have are taken from it.
    """
    users = pl.concat([train.users, test.users]).unique().sort()
    permuted = users.gather(np.random.default_rng([seed, 7]).permutation(len(users)))
    baseline = set(feature_names(store.get_feature_service(BASELINE_SERVICE)))
    own, others = [], []
    for queries in (train, test):
        frame = training_frame(store, queries.frame, RATIONALE_SERVICE)
        dealt = queries.frame.with_columns(pl.col("user_id").replace_strict(users, permuted))
        extra = training_frame(store, dealt, RATIONALE_SERVICE, show_coverage=False)
        added = [name for name in feature_names(store.get_feature_service(RATIONALE_SERVICE)) if name not in baseline]
        own.append(frame)
        others.append(frame.with_columns(extra.select(added)))
    return Frames(own[0], own[1], others[0], others[1])


def table(metrics: dict[str, Any]) -> str:
    """Return the metrics as text: rankers, then differences with their intervals."""
    levels = ["all", *metrics["users_by_activity_level"]]
    lines = [metrics["protocol"], ""]
    for metric in (f"hit_rate@{K}", f"ndcg@{K}"):
        lines.append(f"{metric:<22}" + "".join(f"{level:>9}" for level in levels))
        for ranker in metrics["rankers"]:
            values = [ranker[metric], *(ranker["by_activity_level"][level][metric] for level in levels[1:])]
            lines.append(f"{ranker['name']:<22}" + "".join(f"{value:9.4f}" for value in values))
        lines.append("")
    for row in metrics["differences"]:
        if row["level"] == "all":
            lines.append(
                f"{row['metric']:<12} {row['ranker']} - {row['against']:<20} {row['value']:+.4f} "
                f"(95% {row['low']:+.4f} to {row['high']:+.4f})"
            )
    return "\n".join(lines)


def _ranker(name: str, metrics: QueryMetrics, levels: dict[str, np.ndarray]) -> dict[str, Any]:
    def means(rows: np.ndarray) -> dict[str, float]:
        return {f"hit_rate@{K}": float(metrics.hit_rate[rows].mean()), f"ndcg@{K}": float(metrics.ndcg[rows].mean())}

    everyone = np.ones(len(metrics.ndcg), dtype=bool)
    return {
        "name": name,
        **means(everyone),
        "by_activity_level": {level: means(rows) for level, rows in levels.items()},
    }


def _activity_levels(project: RankingProject, users: pl.Series) -> dict[str, np.ndarray]:
    """Return which of the users have each activity level, L1 (fewest interactions) first."""
    known = pl.read_parquet(project.mart("users"), columns=["user_id", "activity_level"])
    level = users.to_frame().join(known, on="user_id", how="left", maintain_order="left")["activity_level"]
    return {name: (level == name).fill_null(False).to_numpy() for name in sorted(level.drop_nulls().unique())}


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print the table and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m ranking.evaluate", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder with reland.toml")
    parser.add_argument("--output", type=Path, help="where to write the metrics as JSON")
    parser.add_argument("--candidates", type=int, help="items in each test query; 0 is the whole catalogue")
    parser.add_argument("--max-users", type=int, help="sample of users; 0 is everyone")
    options = parser.parse_args(arguments)
    try:
        project = RankingProject.open(options.project)
        settings = project.evaluation
        candidates = settings.candidates if options.candidates is None else options.candidates
        max_users = settings.max_users if options.max_users is None else options.max_users
        metrics = evaluate(project, candidates=candidates or None, max_users=max_users or None, seed=project.seed)
    except RelandError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(metrics))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, json.dumps(metrics, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    leave(main())
