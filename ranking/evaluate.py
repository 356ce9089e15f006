"""Measure what rationales add to a ranker: ``python -m ranking.evaluate --project D --output metrics.json``.

Four rankers see the same training and test queries: the baseline; the same with rationales; and two
controls, whose rationales are dealt out to other users (*shuffled*), or are those of one user for everybody
(*constant*). They show what the extra columns give by themselves. Differences are paired by query, with a
bootstrap interval.
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

from ranking.controls import CONSTANT, RATIONALES, SHUFFLED
from ranking.dataset import TEST, TRAIN, RankingQueries, ranking_queries
from ranking.metrics import QueryMetrics, paired_bootstrap, query_metrics
from ranking.project import RankingProject
from ranking.tabular import (
    BASELINE_SERVICE,
    COMPONENTS,
    RATIONALE_SERVICE,
    TabularFeatures,
    baseline_features,
    rationale_features,
)
from ranking.train import fit
from ranking.training_frame import feature_names, training_frame
from reland_features.artifacts import write_atomically
from reland_features.errors import RelandError
from reland_features.feast import open_store
from reland_features.process import leave

if TYPE_CHECKING:
    from feast import FeatureStore

BASELINE = "baseline"
K = 10
_ROW_KEYS = ("user_id", "item_id", "event_timestamp")


@dataclass(frozen=True)
class Frames:
    """Training and test rows with their features."""

    train: pl.DataFrame
    test: pl.DataFrame


def evaluate(project: RankingProject, *, candidates: int | None, max_users: int | None, seed: int) -> dict[str, Any]:
    """Train and test the four rankers and return what `metrics.json` holds.

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
    store = open_store(project.repository)
    frames = join_features(store, train, test)
    measured: dict[str, QueryMetrics] = {}

    def measure(name: str, features: TabularFeatures, given: Frames) -> None:
        print(f"train {name}: {given.train.height:,} rows, {len(features.names)} columns", file=sys.stderr)
        query, label = (given.test[column].to_numpy() for column in ("query", "label"))
        scores = fit(features, given.train, seed=seed).score(given.test)
        measured[name] = query_metrics(query, label, scores, k=K)

    with_rationales = rationale_features(frames.train)
    measure(BASELINE, baseline_features(), frames)
    measure(RATIONALES, with_rationales, frames)
    measure(SHUFFLED, with_rationales, deal(store, frames, shuffled(frames, seed)))
    measure(CONSTANT, with_rationales, deal(store, frames, constant(frames)))
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
            for against in (BASELINE, SHUFFLED, CONSTANT)
            for metric in ("hit_rate", "ndcg")
            for level, rows in {"all": np.ones(len(test.users), dtype=bool), **levels}.items()
            for interval in [
                paired_bootstrap(
                    getattr(measured[RATIONALES], metric)[rows], getattr(measured[against], metric)[rows], seed=seed
                )
            ]
        ],
    }


def join_features(store: FeatureStore, train: RankingQueries, test: RankingQueries) -> Frames:
    """Join every row's features through Feast."""
    return Frames(*(training_frame(store, queries.frame, RATIONALE_SERVICE) for queries in (train, test)))


def shuffled(frames: Frames, seed: int) -> pl.DataFrame:
    """Return whose rationale each user is given: a permutation of the users, columns user_id and giver."""
    users = _users(frames)["user_id"]
    return pl.DataFrame(
        {"user_id": users, "giver": users.gather(np.random.default_rng([seed, 7]).permutation(len(users)))}
    )


def constant(frames: Frames) -> pl.DataFrame:
    """Give everybody who has a rationale that of one user, whose components are nearest to the users' mean."""
    users = _users(frames)
    there = users.drop_nulls(COMPONENTS)
    if not there.height:
        return users.select("user_id", giver="user_id")
    components = np.array(there[COMPONENTS].to_list(), dtype=np.float64)
    distance = np.linalg.norm(components - components.mean(axis=0), axis=1)
    giver = there["user_id"][int(distance.argmin())]
    has = pl.col(COMPONENTS).is_not_null()
    return users.select("user_id", giver=pl.when(has).then(pl.lit(giver)).otherwise("user_id"))


def deal(store: FeatureStore, frames: Frames, givers: pl.DataFrame) -> Frames:
    """Join the features that the baseline does not have again, as if each user were its giver.

    Parameters
    ----------
    givers : polars.DataFrame
        user_id and giver, each user of the frames once.
    """
    baseline = set(feature_names(store.get_feature_service(BASELINE_SERVICE)))
    added = [name for name in feature_names(store.get_feature_service(RATIONALE_SERVICE)) if name not in baseline]

    def dealt(frame: pl.DataFrame) -> pl.DataFrame:
        giver = pl.col("user_id").replace_strict(givers["user_id"], givers["giver"])
        rows = frame.select(_ROW_KEYS).with_columns(giver)
        # One giver for everybody leaves a row for each item: joined once, not once a query.
        extra = training_frame(store, rows.unique(maintain_order=True), RATIONALE_SERVICE, show_coverage=False)
        found = rows.join(extra, on=_ROW_KEYS, how="left", maintain_order="left")
        return frame.with_columns(found.select(added))

    return Frames(dealt(frames.train), dealt(frames.test))


def _users(frames: Frames) -> pl.DataFrame:
    """Return every user once, with its rationale's components where there is one."""
    rows = pl.concat([frame.select("user_id", COMPONENTS) for frame in (frames.train, frames.test)])
    return rows.group_by("user_id").agg(pl.col(COMPONENTS).drop_nulls().first()).sort("user_id")


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
