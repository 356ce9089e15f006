"""Train the ranker that is served: ``python -m ranking.train --project D --model xgboost``.

XGBoost learns from a frame that Feast joins, here; MaskNet in `ranking.ctr_fitting` and SASRec in `ranking.sequential`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ranking.compact_views import check_pool_of_users
from ranking.dataset import TRAIN, ranking_queries
from ranking.project import RankingProject
from ranking.tabular import (
    BASELINE_SERVICE,
    RATIONALE_SERVICE,
    TabularFeatures,
    as_polars,
    baseline_features,
    check_columns,
    rationale_features,
)
from ranking.trained_facts import FACTS, check_facts, current_ranker, how_to_train, keep_ranker, trained_on, unreadable
from ranking.training_frame import training_frame
from reland_features.artifacts import content_id
from reland_features.errors import ArtifactError, ConfigError, RelandError
from reland_features.feast import open_store
from reland_features.process import leave

if TYPE_CHECKING:
    import pandas as pd
    from xgboost import Booster

MODELS = ("xgboost", "sasrec", "masknet")
ROUNDS = 300
_PATIENCE = 100  # NDCG of the held-out queries is noisy: with 20, chance stopped rankers after 7 trees or 199
_VALIDATION = 10  # one query in ten
_NAME, _MODEL = "xgboost", "model.ubj"


@dataclass(frozen=True)
class Ranker:
    """A trained model and the features it reads."""

    features: TabularFeatures
    booster: Booster
    facts: dict[str, Any]

    def score(self, frame: pl.DataFrame | pd.DataFrame) -> np.ndarray:
        """Return a score per row of a training frame or an online frame, float32 [rows]."""
        return np.asarray(self.booster.inplace_predict(self.features.matrix(frame)), dtype=np.float32)


def fit(features: TabularFeatures, frame: pl.DataFrame | pd.DataFrame, *, seed: int = 0) -> Ranker:
    """Fit `rank:ndcg` on queries, stopping early on every tenth of them.

    Parameters
    ----------
    features : TabularFeatures
        Which columns.
    frame : polars.DataFrame or pandas.DataFrame
        query (ascending), label, and the features.

    Raises
    ------
    TrainingFrameError
        A column is missing or cannot be used, see `TabularFeatures.matrix`.
    """
    import xgboost as xgb

    frame = as_polars(frame)
    check_columns(frame, ["query", "label"], where="the frame to train on")
    matrix, label, query = features.matrix(frame), frame["label"].to_numpy(), frame["query"].to_numpy()
    held = query % _VALIDATION == _VALIDATION - 1
    if not held.any():
        held = np.ones_like(held)  # too few queries to spare one: stop on the training set
        kept = held
    else:
        kept = ~held

    def part(rows: np.ndarray) -> xgb.DMatrix:
        return xgb.DMatrix(matrix[rows], label=label[rows], qid=query[rows], feature_names=features.names)

    settings = {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@10",
        "tree_method": "hist",
        "max_depth": 4,
        "eta": 0.1,
        "seed": seed,
    }
    booster = xgb.train(
        settings,
        part(kept),
        num_boost_round=ROUNDS,
        evals=[(part(held), "validation")],
        early_stopping_rounds=_PATIENCE,
        verbose_eval=False,
    )
    booster = booster[: booster.best_iteration + 1]
    booster.feature_names = None  # scored from plain matrices, whose columns `features` orders
    facts = {"rounds": int(booster.num_boosted_rounds()), "queries": len(np.unique(query)), "rows": len(query)}
    return Ranker(features, booster, facts)


def train(
    project: RankingProject,
    service: str = RATIONALE_SERVICE,
    *,
    max_users: int | None = None,
    across_pools: bool = False,
) -> Ranker:
    """Train the ranker that is served, on the last but one events of a uniform sample of the users.

    Parameters
    ----------
    across_pools : bool
        Leave out what means something within one pool only, see `TabularFeatures`.
    max_users : int, optional
        Size of the sample, `evaluation.max_users` unless given; 0 is everyone.

    Raises
    ------
    ConfigError
        `max_users` is below 0.
    FeaturesError
        What Feast joins is of another pool than the project's, which the ranker would be recorded with.
    """
    settings = project.evaluation
    queries = ranking_queries(
        project, TRAIN, candidates=settings.candidates, max_users=project.sample_size(max_users), seed=project.seed
    )
    store = open_store(project.repository)
    frame = training_frame(store, queries.frame, service)
    if service != BASELINE_SERVICE:
        check_pool_of_users(store, queries.users, project)
    without = service == BASELINE_SERVICE
    features = baseline_features() if without else rationale_features(frame, across_pools=across_pools)
    trained = trained_on(project, across_pools=features.across_pools)
    ranker = fit(features, frame, seed=project.seed)
    facts = {**trained, "as_of": project.as_of.isoformat(), "protocol": queries.protocol}
    return Ranker(features, ranker.booster, {**ranker.facts, **facts})


def save(ranker: Ranker, models: Path) -> Path:
    """Write model, features and facts as one folder, and then make it the current one."""
    described = {
        "service": ranker.features.service,
        "components": ranker.features.components,
        "across_pools": ranker.features.across_pools,
        "columns": ranker.features.names,
        **ranker.facts,
    }
    raw = bytes(ranker.booster.save_raw("ubj"))
    name = f"{ranker.features.service}-{content_id([described, raw.hex()])}"
    return keep_ranker(models, name, {_MODEL: raw}, described)


def load(models: Path, expected: Mapping[str, Any]) -> Ranker:
    """Read the current model.

    Parameters
    ----------
    models : Path
        What `save` wrote to.
    expected : mapping
        Facts that a ranker with rationales must have been trained with, see `ranking.trained_facts.required`.

    Raises
    ------
    ArtifactError
        None was trained, it is damaged, its columns are not those this version of the package makes, or an expected
        fact differs.
    """
    import xgboost as xgb

    folder, described = current_ranker(models, _NAME)
    across_pools = bool(described.get("across_pools"))  # which an older version did not know
    features = TabularFeatures(described["service"], described["components"], across_pools=across_pools)
    if features.names != described["columns"]:
        raise ArtifactError(
            "the ranker was trained on other columns",
            where=str(folder),
            got=described["columns"],
            expected=features.names,
            hint=how_to_train(_NAME),
        )
    if features.service != BASELINE_SERVICE:  # which reads nothing of a pool
        check_facts(folder, _NAME, described, expected)
    booster = xgb.Booster()
    try:
        booster.load_model(folder / _MODEL)
    except xgb.core.XGBoostError as error:
        raise unreadable(folder, _NAME, error) from error
    return Ranker(features, booster, {**described, "model": folder.name})


def main(arguments: list[str] | None = None) -> int:
    """Train, save and say where."""
    parser = argparse.ArgumentParser(prog="python -m ranking.train", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder with reland.toml")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="which ranker")
    parser.add_argument(
        "--service",
        choices=[RATIONALE_SERVICE, BASELINE_SERVICE],
        default=RATIONALE_SERVICE,
        help="which features XGBoost reads",
    )
    parser.add_argument(
        "--max-users",
        type=int,
        help="sample of users that xgboost and masknet learn from, evaluation.max_users unless given; 0 is everyone",
    )
    parser.add_argument(
        "--across-pools",
        action="store_true",
        help="to be served with the pools of other days, too: xgboost and masknet leave out components and cluster, "
        "which mean something within one pool only",
    )
    parser.add_argument("--device", default="cpu", help="of sasrec and masknet: cpu, cuda, cuda:1 or auto")
    options = parser.parse_args(arguments)
    try:
        if options.model == "xgboost" and options.device != "cpu":
            raise ConfigError(
                "xgboost is trained on the CPU here", where="--device", got=options.device, hint="leave --device out"
            )
        project = RankingProject.open(options.project)
        if options.model == "xgboost":
            given = {"max_users": options.max_users, "across_pools": options.across_pools}
            folder = save(train(project, options.service, **given), project.models)
        else:  # torch is imported only where it is needed
            module = "ranking.ctr_fitting" if options.model == "masknet" else "ranking.sequential"
            given = {"device": options.device, "across_pools": options.across_pools}
            sampled = {"max_users": options.max_users} if options.model == "masknet" else {}  # SASRec reads everyone
            folder = importlib.import_module(module).train(project, **given, **sampled)
        print(f"trained on: {json.loads((folder / FACTS).read_text())['protocol']}", file=sys.stderr)
        print(folder)
    except RelandError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
