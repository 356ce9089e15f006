"""Measure what rationales add to a ranker: ``python -m ranking.evaluate --project D --output metrics.json``.

All rankers see the same training and test queries. Beside the baseline and the one with rationales there are
others with something else in the rationales' place: those of other users (*shuffled*), that of one user for
everybody (*constant*), no text at all beside the match's similarity and cluster, and the mean item text of the
matched seed, which tell what the extra columns and the match give without what the LLM wrote of this user. The mean
item text of the user's own history costs no call: it has a ranker too, and all the others are measured again with it
beside them. Differences are paired by query, with a bootstrap interval; over all users, by activity, and over those who
inherit another user's rationale: a seed has its own, and one that was imported may know what is held out here.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from feast import FeatureStore

from ranking.compact_views import check_pool_of_users, read_view
from ranking.control_frames import (
    Frames,
    beside,
    constant,
    deal,
    join_features,
    match_alone,
    shuffled,
    texts_without_llm,
)
from ranking.controls import CONSTANT, MATCH, MEAN_TEXT, RATIONALES, SEED_TEXT, SHUFFLED, with_mean_text
from ranking.dataset import TEST, TRAIN, ranking_queries
from ranking.metrics import QueryMetrics, paired_bootstrap, query_metrics
from ranking.project import RankingProject
from ranking.tabular import TabularFeatures, baseline_features, rationale_features
from ranking.train import fit
from reland_features.artifacts import write_atomically
from reland_features.columns import USER_SEED_MATCH
from reland_features.errors import RelandError
from reland_features.feast import open_store
from reland_features.process import leave

BASELINE = "baseline"
INHERIT = "inherit"
K = 10
_CONTROLS = (SHUFFLED, CONSTANT, MATCH, SEED_TEXT)
_RANKERS = (
    *(BASELINE, RATIONALES, *_CONTROLS),
    *(MEAN_TEXT, with_mean_text(RATIONALES), *map(with_mean_text, _CONTROLS)),
)
# What a difference is against, and what that is to the report: a control must be beaten for a gain to be the LLM's.
_COMPARED = (
    (RATIONALES, BASELINE, "baseline"),
    *((RATIONALES, control, "control") for control in _CONTROLS),
    (RATIONALES, MEAN_TEXT, "alternative"),
    (with_mean_text(RATIONALES), MEAN_TEXT, "baseline"),
    *((with_mean_text(RATIONALES), with_mean_text(control), "control") for control in _CONTROLS),
)


def evaluate(project: RankingProject, *, candidates: int | None, max_users: int | None, seed: int) -> dict[str, Any]:
    """Train and test the rankers and return what `metrics.json` holds.

    Parameters
    ----------
    project : RankingProject
        A project whose features are published and whose repository is applied.
    candidates : int, optional
        Items in each test query, at least 2; None ranks the whole catalogue. Training always uses the project's
        `evaluation.candidates`.
    max_users : int, optional
        Uniform sample of users.
    seed : int
        Of samples, shuffle, trees and bootstrap.

    Raises
    ------
    ConfigError
        `candidates` or `max_users` is too small.
    FeaturesError
        What Feast joins is of another pool than the project's.
    """
    sampled = {"max_users": max_users, "seed": seed}
    train = ranking_queries(project, TRAIN, candidates=project.evaluation.candidates, **sampled)  # type: ignore[arg-type]
    test = ranking_queries(project, TEST, candidates=candidates, **sampled)  # type: ignore[arg-type]
    store = open_store(project.repository)
    frames = join_features(store, train, test)
    check_pool_of_users(store, pl.concat([train.users, test.users]), project)
    measured: dict[str, QueryMetrics] = {}
    rounds: dict[str, int] = {}

    def measure(name: str, features: TabularFeatures, given: Frames) -> None:
        print(f"train {name}: {given.train.height:,} rows, {len(features.names)} columns", file=sys.stderr)
        query, label = (given.test[column].to_numpy() for column in ("query", "label"))
        ranker = fit(features, given.train, seed=seed)
        rounds[name] = ranker.facts["rounds"]
        measured[name] = query_metrics(query, label, ranker.score(given.test), k=K)

    with_rationales = rationale_features(frames.train)
    measure(BASELINE, baseline_features(), frames)
    mean, of_the_seed = texts_without_llm(project, store, frames)
    measure(MEAN_TEXT, with_rationales, mean)

    def measure_twice(name: str, given: Frames) -> None:
        measure(name, with_rationales, given)
        measure(with_mean_text(name), *beside(with_rationales, given, mean))

    measure_twice(RATIONALES, frames)
    measure_twice(MATCH, match_alone(frames))
    measure_twice(SEED_TEXT, of_the_seed)
    measure_twice(SHUFFLED, deal(store, frames, shuffled(frames, seed)))
    measure_twice(CONSTANT, deal(store, frames, constant(frames)))
    levels = _activity_levels(project, test.users)
    inherit = _inherit(project, store, test.users)
    everyone = np.ones(len(test.users), dtype=bool)
    groups = {"all": everyone, **levels, **({INHERIT: inherit} if inherit.any() else {})}
    return {
        "protocol": test.protocol,
        "k": K,
        "seed": seed,
        "features_run": project.features_run,
        "pool_version": project.pool_version,
        "as_of": project.as_of.isoformat(),
        "users": len(test.users),
        "users_by_activity_level": {level: int(rows.sum()) for level, rows in levels.items()},
        "users_who_inherit": int(inherit.sum()),
        "coverage": float(frames.test["rationale_item_cross__has_rationale"].mean()),  # type: ignore[arg-type]
        "rankers": [_ranker(name, measured[name], levels) for name in _RANKERS],
        "trees": rounds,
        "differences": [
            {
                "ranker": ranker,
                "against": against,
                "role": role,
                "metric": f"{metric}@{K}",
                "level": level,
                **asdict(interval),
            }
            for ranker, against, role in _COMPARED
            for metric in ("hit_rate", "ndcg")
            for level, rows in groups.items()
            for interval in [
                paired_bootstrap(
                    getattr(measured[ranker], metric)[rows], getattr(measured[against], metric)[rows], seed=seed
                )
            ]
        ],
    }


def table(metrics: dict[str, Any]) -> str:
    """Return the metrics as text: rankers, then differences with their intervals."""
    levels = ["all", *metrics["users_by_activity_level"]]
    lines = [metrics["protocol"], ""]
    width = 2 + max(len(ranker["name"]) for ranker in metrics["rankers"])
    against = max(len(f"{row['ranker']} - {row['against']}") for row in metrics["differences"])
    for metric in (f"hit_rate@{K}", f"ndcg@{K}"):
        lines.append(f"{metric:<{width}}" + "".join(f"{level:>9}" for level in levels))
        for ranker in metrics["rankers"]:
            values = [ranker[metric], *(ranker["by_activity_level"][level][metric] for level in levels[1:])]
            lines.append(f"{ranker['name']:<{width}}" + "".join(f"{value:9.4f}" for value in values))
        lines.append("")
    for row in metrics["differences"]:
        if row["level"] == "all":
            lines.append(
                f"{row['metric']:<12} {row['ranker'] + ' - ' + row['against']:<{against}} {row['value']:+.4f} "
                f"(95% {row['low']:+.4f} to {row['high']:+.4f})"
            )
    inherited = [
        f"{row['value']:+.4f} over {row['against']} (95% {row['low']:+.4f} to {row['high']:+.4f})"
        for row in metrics["differences"]
        if (row["level"], row["ranker"], row["metric"]) == (INHERIT, RATIONALES, f"ndcg@{K}")
        and row["role"] in ("baseline", "control")
    ]
    if inherited:
        lines += ["", f"{RATIONALES}, ndcg@{K}, the {metrics['users_who_inherit']:,} users who inherit another's:"]
        lines += [f"  {line}" for line in inherited]
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


def _inherit(project: RankingProject, store: FeatureStore, users: pl.Series) -> np.ndarray:
    """Return which of the users have another user's rationale, bool [n]: they are matched, and not to themselves."""
    view, name = USER_SEED_MATCH.name, "seed_user_id"
    seeds = read_view(store, view, "user_id", users, [name], project.as_of)[name]
    return (seeds != users).fill_null(False).to_numpy()


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
        max_users = project.sample_size(options.max_users)
        metrics = evaluate(project, candidates=candidates or None, max_users=max_users, seed=project.seed)
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
