"""Take a variant's features from a project's Feast repository, and give them to a backbone."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import numpy as np

from ranking.backbones.base import Sides
from ranking.compact_views import check_pool, read_view
from ranking.experiments.published_match import features_artifact
from ranking.experiments.runs import RunSpec
from ranking.experiments.seed_subset import PoolFolder, subset_rationales
from ranking.experiments.variants import variant
from ranking.features import RankerFeatures, load_features, rationales_of_seeds, top_k
from ranking.mean_text import mean_texts, mean_texts_at_events
from ranking.newcomers import beginnings, events_of, newcomers, untrained, without
from ranking.point_in_time import rationales_at_events, shuffled_at_events
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.sides import FeatureSides
from ranking.splits import Split
from reland_features.columns import USER_SEED_MATCH
from reland_features.errors import ConfigError
from reland_features.feature_store import open_store


@lru_cache(maxsize=4)
def open_project(root: Path) -> RankingProject:
    """Open a project once."""
    return RankingProject.open(root)


@lru_cache(maxsize=4)
def load_split(root: Path) -> Split:
    """Read a project's interactions once."""
    return Split.of(open_project(root))


def split_of(root: Path, spec: RunSpec) -> Split:
    """Return what a spec is trained on and measured on: whole, cut, without newcomers, or their beginnings."""
    split = load_split(root)
    if spec.keep_last is not None:
        return split.keep_last(spec.keep_last)
    if spec.known is None:
        return split
    users = newcomers(split)
    return beginnings(split, users, spec.known) if spec.known else without(split, users)


@lru_cache(maxsize=2)
def _features(root: Path) -> RankerFeatures:
    return load_features(open_project(root), load_split(root))


def text_encoder_of(project: RankingProject) -> str:
    """Return the id of the encoder of the published item texts.

    Raises
    ------
    ArtifactError
        The folder of the feature run is gone.
    """
    return str(features_artifact(project).manifest["config"]["text_encoder_id"])


def sides_of(root: Path, spec: RunSpec) -> Sides | None:
    """Return how a variant's features come into a backbone; None for IDs only.

    Raises
    ------
    RelandError
        Feast has not what the variant reads.
    """
    chosen = variant(spec.variant)
    rationales = rationales_of(root, spec)
    if not chosen.item_text and rationales is None:
        return None
    return FeatureSides(
        _features(root).item_text if chosen.item_text or chosen.output != "none" else None,
        rationales,
        fusion=chosen.fusion,
        dropout=chosen.dropout,
        output=chosen.output,
        on_items=chosen.item_text,
        by_event=chosen.by_event,
    )


def seed_rows(root: Path) -> np.ndarray:
    """Return the rows of the split's users who are seeds of the project's pool, int64 ascending."""
    seeds = PoolFolder.of(open_project(root)).seeds()
    return load_split(root).user_ids.is_in(seeds.implode()).arg_true().to_numpy()


def rationales_of(root: Path, spec: RunSpec) -> Rationales | None:
    """Return which rationales each user has in a variant; None where it reads none."""
    chosen = variant(spec.variant)
    if chosen.texts == "none":
        return None
    if chosen.by_event:
        found = _at_events(root, spec)
        if chosen.control == "shuffled":
            return shuffled_at_events(found, split_of(root, spec), spec.seed)
    elif chosen.texts == "top3":
        found = top_k(open_project(root), load_split(root), 3)
    elif chosen.texts == "history":
        # The whole training part, also where the ranker is cut to its end, as for the rationales of the pool.
        found = mean_texts(load_split(root), _features(root).item_text)
    elif chosen.texts == "earlier":
        found = mean_texts(load_split(root), _features(root).item_text, without_last=spec.keep_last or 0)
    elif chosen.texts == "own":
        found = own_rationales(open_project(root), load_split(root))
    elif spec.seed_users != 1:
        found = subset_rationales(open_project(root), load_split(root), spec.seed_users)
    else:
        found = _features(root).rationales
    if chosen.control == "shuffled":
        return found.shuffled(spec.seed)
    if chosen.control == "permuted":
        return found.permuted(spec.seed)
    if chosen.control == "constant":
        found = found.constant()
        if spec.known:  # what the weights know as everybody's, not the mean of what newcomers have
            found = dataclasses.replace(found, embeddings=_constant_of_training(root, spec))
    return found


def _at_events(root: Path, spec: RunSpec) -> Rationales:
    """Return the rationale of each interaction of a spec's split, just after it.

    Of newcomers nothing is in what the others are given, neither their texts nor their interactions.
    """
    split, part = load_split(root), split_of(root, spec)
    if variant(spec.variant).texts == "so far":
        return mean_texts_at_events(part, _features(root).item_text)
    if spec.known is None:
        return rationales_at_events(open_project(root), part)
    found, rows = _matched_without_newcomers(root), events_of(split, part)
    return dataclasses.replace(found, rows=found.rows[rows], weights=found.weights[rows])


@lru_cache(maxsize=2)
def _matched_without_newcomers(root: Path) -> Rationales:
    split = load_split(root)
    return rationales_at_events(open_project(root), untrained(split, newcomers(split)))


@lru_cache(maxsize=8)
def _constant_of_training(root: Path, spec: RunSpec) -> np.ndarray:
    """Return the one vector, float32 [1, D], that the constant control was trained with."""
    found = rationales_of(root, dataclasses.replace(spec, known=0))
    assert found is not None
    return found.embeddings


def own_rationales(project: RankingProject, split: Split) -> Rationales:
    """Keep the rationales of users that are seeds themselves, who are matched with their own text.

    It is the text alone, also where the run gives a user a mixture of several. In a project where every user is a seed
    this is everybody's own text, the ceiling of retrieval.

    Raises
    ------
    ConfigError
        No user of the split is a seed.
    FeaturesError
        Feast joins another pool than the project's.
    """
    view, names = USER_SEED_MATCH.name, ["seed_user_id", "pool_version"]
    store = open_store(project.repository)
    matches = read_view(store, view, "user_id", split.user_ids, names, project.as_of)
    check_pool(matches["pool_version"], project)
    seeds = matches["seed_user_id"]
    own = (seeds == split.user_ids).fill_null(False).to_numpy()
    if not own.any():
        raise ConfigError(
            "no user has a text of its own",
            where=str(project.root),
            got=f"{len(seeds.drop_nulls().unique()):,} seeds, none a user of the split",
            hint="take a --source whose seed users are the users themselves",
        )
    best = rationales_of_seeds(project, seeds.to_frame().to_numpy(), np.ones((len(seeds), 1)))
    return best.without(~own)
