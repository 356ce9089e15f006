"""Users whom a ranker never learned from: who they are here, and which of their interactions are known.

A third of the users is kept out of training altogether and then met as new users are, with their first few
interactions. What a ranker reads of a user is made from the interactions so far, in training and when newcomers are
met (`ranking.point_in_time`): weights that learnt from whole histories would meet vectors of another kind.
"""

from __future__ import annotations

import dataclasses

import numpy as np

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
        `known` is below 1, or no user has so many interactions and one more.
    """
    longest = int(np.diff(split.offsets)[users].max(initial=0)) - 1
    if not 1 <= known <= longest:
        raise ConfigError(
            "no newcomer has so many interactions and one more", where="known", got=known, expected=f"1 to {longest}"
        )
    has = np.zeros(split.n_users, dtype=np.int64)
    has[users[np.diff(split.offsets)[users] > known]] = 1
    return _first(split, has * (known + 1), has * known, has * 0)


def untrained(split: Split, users: np.ndarray) -> Split:
    """Count some users' training part as held out, so that nothing is made from it; all interactions stay in place."""
    training = split.training.copy()
    training[users] = 0
    return dataclasses.replace(split, training=training, validation=split.validation + split.training - training)


def events_of(split: Split, part: Split) -> np.ndarray:
    """Return the place in `split` of each interaction of what `without` or `beginnings` made of it, int64 [N']."""
    sizes = np.diff(part.offsets)
    return np.arange(len(part.items)) + np.repeat(split.offsets[:-1] - part.offsets[:-1], sizes)


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
