"""Match every user at every moment, so that a training example reads the rationale that it would have had then.

A published match is made from all of a user's training behaviour. A sequential ranker is trained to predict
that same behaviour, event by event: the rationale of the final match has seen the target. Feast's answer is
the point-in-time join, which needs a match for every moment of the past; where none was published then, this
makes one after the fact.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from ranking.compact_views import FeaturesError
from ranking.features import pool_and_vectors, rationales_of_seeds
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.splits import Split

_BLOCK = 8192


def rationales_at_events(project: RankingProject, split: Split) -> Rationales:
    """Match each user's history up to each event to a seed, Eq. (3).

    The vector of a moment is folded in as LightGCN's layers make one: an item is the sum of the published
    vectors of the users who took it in the training part, a moment is the sum of the items so far, each
    divided by the square roots of the degrees. The user itself is left out of the items' sums, because its
    published vector knows the whole training part. Seeds are folded in the same way, from their whole training
    part. The rationale of a seed, written after the fact, is not for the seed's own earlier events.

    Parameters
    ----------
    split : Split
        Only its training part makes the items' vectors.

    Returns
    -------
    Rationales
        `rows` is int64 [N, 1], one per interaction of ``split.items``: the rationale of its user just after
        it; -1 where nobody else took any of the user's items so far.

    Raises
    ------
    FeaturesError
        No seed is a user of the split who shares an item with another.
    ArtifactError
        The folder of the pool or of the behaviour vectors is gone.
    """
    pool, behavior = pool_and_vectors(project)
    vectors = _aligned(split.user_ids, behavior.user_ids, behavior.vectors)
    moments, users = folded_in(split, vectors)
    last = split.offsets[:-1] + split.training - 1
    row_of = {user: row for row, user in enumerate(split.user_ids)}
    rows = [row_of[seed] for seed in pool.frame["seed_user_id"] if seed in row_of]
    seeds = [split.user_ids[row] for row in rows if split.training[row] and moments[last[row]].any()]
    if not seeds:
        raise FeaturesError(
            "no seed can be matched at moments of the past",
            where=f"pool {pool.pool_version}",
            got=f"{pool.frame.height:,} seeds, none a user of the split who shares an item with another",
            hint="reland run, on the interactions that the ranker is trained on",
        )
    seed_rows = np.array([row_of[seed] for seed in seeds])
    seed_of_user = np.full(split.n_users, -1)
    seed_of_user[seed_rows] = np.arange(len(seeds))
    early = np.arange(len(users)) < last[users]
    best = _nearest(moments, _unit(moments[last[seed_rows]]), np.where(early, seed_of_user[users], -1))
    ids = np.array([*seeds, None], dtype=object)[best]
    return rationales_of_seeds(project, ids[:, None], np.ones((len(ids), 1)))


def shuffled_at_events(rationales: Rationales, split: Split, seed: int) -> Rationales:
    """Deal every user the rationales of another user, moment by moment: the first control of `rationales_at_events`.

    A training event gets what the other has at the same fraction of its own training part, the first event that of the
    first and the last that of the last; a held-out event that of the corresponding one. So a user's rationale
    changes as seldom as the other's does, and is missing where the other's is.

    Parameters
    ----------
    rationales : Rationales
        `rows` int64 [N, k], one per interaction of ``split.items``.
    """
    givers = np.arange(split.n_users)
    among = np.flatnonzero(np.diff(split.offsets))  # who has none has nothing to give
    givers[among] = np.random.default_rng(seed).permutation(among)
    users = np.repeat(np.arange(split.n_users), np.diff(split.offsets))
    place = np.arange(len(users)) - split.offsets[users]
    giver, own = givers[users], split.training[users]
    theirs, total = split.training[giver], np.diff(split.offsets)[giver]
    during = np.rint(place * np.maximum(theirs - 1, 0) / np.maximum(own - 1, 1)).astype(np.int64)
    after = np.minimum(theirs + place - own, total - 1)
    source = split.offsets[giver] + np.where(place < own, during, after)
    return dataclasses.replace(rationales, rows=rationales.rows[source], weights=rationales.weights[source])


def folded_in(split: Split, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vector of each user just after each interaction, float64 [N, d], and the user rows, int64 [N].

    With n_u and n_i interactions of a user and an item in the training part, and m_v the vectors of users,
    the vector after event t is ``sum over e <= t of (sum over v ≠ u of m_v / sqrt(n_v)) / n_i(e)``.

    Parameters
    ----------
    vectors : numpy.ndarray
        float [U, d], zeros for a user without a vector.
    """
    users = np.repeat(np.arange(split.n_users), np.diff(split.offsets))
    trained_users, trained_items = split.training_pairs()
    shares = vectors / np.sqrt(np.maximum(split.training, 1))[:, None]
    sums = np.zeros((split.n_items, vectors.shape[1]))
    np.add.at(sums, trained_items, shares[trained_users])
    # How often the user itself is in an item's sum: repeated interactions count each time.
    taken = np.zeros(0) if not len(users) else _own_counts(split, users)
    degrees = np.bincount(trained_items, minlength=split.n_items)
    added = (sums[split.items] - taken[:, None] * shares[users]) / np.maximum(degrees, 1)[split.items, None]
    added[degrees[split.items] <= taken] = 0.0  # nobody else: what is left is rounding
    for start, stop in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        np.cumsum(added[start:stop], axis=0, out=added[start:stop])
    return added, users


def _own_counts(split: Split, users: np.ndarray) -> np.ndarray:
    """Return how often each interaction's user took its item in the training part, int64 [N]."""
    keys = users * split.n_items + split.items
    trained_users, trained_items = split.training_pairs()
    pairs, counts = np.unique(trained_users * split.n_items + trained_items, return_counts=True)
    at = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
    return np.where(pairs[at] == keys, counts[at], 0)


def _nearest(moments: np.ndarray, seeds: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """Return the seed of the highest cosine, int64 [N]: never `forbidden` (-1 is none); -1 where there is no other.

    A moment of zeros has none either.
    """
    best = np.empty(len(moments), dtype=np.int64)
    for start in range(0, len(moments), _BLOCK):
        cosines = moments[start : start + _BLOCK] @ seeds.T
        held = forbidden[start : start + _BLOCK]
        own = np.flatnonzero(held >= 0)
        cosines[own, held[own]] = -np.inf
        best[start : start + _BLOCK] = np.where(np.isneginf(cosines).all(axis=1), -1, cosines.argmax(axis=1))
    best[~moments.any(axis=1)] = -1
    return best


def _aligned(wanted: pl.Series, ids: pl.Series, vectors: np.ndarray) -> np.ndarray:
    """Lay unit vectors out by `wanted`, float64 [U, d]; zeros where there is none."""
    rows = pl.DataFrame({"id": ids}).with_row_index("row")
    found = wanted.rename("id").to_frame().join(rows, on="id", how="left", maintain_order="left")["row"]
    has = found.is_not_null().to_numpy()
    laid = np.zeros((len(wanted), vectors.shape[1]))
    laid[has] = _unit(vectors[found.drop_nulls().to_numpy()])
    return laid


def _unit(vectors: np.ndarray) -> np.ndarray:
    values = vectors.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
