"""Users whom a ranker never learned from: who they are here, what is known of them, and which rationale that matches.

A third of the users is kept out of training altogether and then met as new users are: with their first few
interactions, which give them a history, a match and its rationale, and no weight of the ranker.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ranking.compact_views import FeaturesError
from ranking.features import pool_and_vectors, rationales_of_seeds
from ranking.point_in_time import aligned, folded_in, nearest, unit
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.splits import Split
from reland_features.errors import ConfigError

SHARE = 1 / 3


def newcomers(split: Split) -> np.ndarray:
    """Return the rows of the users who are kept out of training, int64 ascending.

    They are a uniform draw of `SHARE` of all users, the same for every run of a split.
    """
    return np.sort(np.random.default_rng(0).permutation(split.n_users)[: round(SHARE * split.n_users)])


def without(split: Split, users: np.ndarray) -> Split:
    """Take all interactions of some users away; their rows stay, so that what is laid out by user still fits."""
    left = np.ones(split.n_users, dtype=np.int64)
    left[users] = 0
    return _first(split, np.diff(split.offsets) * left, split.training * left, split.validation * left)


def beginnings(split: Split, users: np.ndarray, known: int) -> Split:
    """Keep of some users the first `known` interactions as a history and the next one as the test part.

    Who has fewer has none, and so have all other users. There is no validation part.

    Raises
    ------
    ConfigError
        `known` is below 1.
    """
    if known < 1:
        raise ConfigError("a history has one interaction at least", where="known", got=known, expected="1 or more")
    has = np.zeros(split.n_users, dtype=np.int64)
    has[users[np.diff(split.offsets)[users] > known]] = 1
    return _first(split, has * (known + 1), has * known, has * 0)


def rationales_of_newcomers(project: RankingProject, split: Split, users: np.ndarray, known: int) -> Rationales:
    """Match the first `known` interactions of newcomers to the seeds among the other users, Eq. (3).

    Vectors are folded in as in `ranking.point_in_time`, from the interactions of the others alone: a newcomer's own
    published vector, and the text that was written of one who is a seed, know what is to be predicted.

    Parameters
    ----------
    split : Split
        With all interactions of all users.
    users : numpy.ndarray
        int64 [n], rows of the newcomers.

    Returns
    -------
    Rationales
        `rows` is int64 [U, 1]; -1 for all other users, and for newcomers of whom so much is not known or none of whose
        items anybody else took.

    Raises
    ------
    FeaturesError
        No seed is left among the other users.
    """
    is_new = np.isin(np.arange(split.n_users), users)
    met = dataclasses.replace(
        split,
        training=np.where(is_new, 0, split.training),
        validation=np.where(is_new, split.training + split.validation, split.validation),
    )
    pool, behavior = pool_and_vectors(project)
    moments, _ = folded_in(met, aligned(split.user_ids, behavior.user_ids, behavior.vectors))
    row_of = {user: row for row, user in enumerate(split.user_ids)}
    rows = np.array([row_of[seed] for seed in pool.frame["seed_user_id"] if seed in row_of], dtype=np.int64)
    rows = rows[~is_new[rows] & (split.training[rows] > 0)]
    ends = split.offsets[rows] + split.training[rows] - 1
    rows, ends = rows[moments[ends].any(axis=1)], ends[moments[ends].any(axis=1)]
    if not len(rows):
        raise FeaturesError(
            "no seed can be matched to newcomers",
            where=f"pool {pool.pool_version}",
            got=f"{pool.frame.height:,} seeds, none among the users that the ranker learns from",
            hint="draw more seeds: seeds.fraction in reland.toml, then reland run",
        )
    measured = users[np.diff(split.offsets)[users] > known]
    seen = moments[split.offsets[measured] + known - 1]
    best = nearest(seen, unit(moments[ends]), np.full(len(measured), -1))
    ids = np.full(split.n_users, None, dtype=object)
    ids[measured] = np.array([*split.user_ids.gather(rows), None], dtype=object)[best]
    return rationales_of_seeds(project, ids[:, None], np.ones((split.n_users, 1)))


def _first(split: Split, kept: np.ndarray, training: np.ndarray, validation: np.ndarray) -> Split:
    """Keep each user's first `kept` interactions, of which so many are in the training and validation parts."""
    sizes = np.diff(split.offsets)
    within = np.arange(len(split.items)) - np.repeat(split.offsets[:-1], sizes)
    return dataclasses.replace(
        split,
        offsets=np.concatenate([[0], np.cumsum(kept)]),
        items=split.items[within < np.repeat(kept, sizes)],
        training=training,
        validation=validation,
    )
