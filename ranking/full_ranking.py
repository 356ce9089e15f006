"""Rank the whole catalogue for every user and count where the held-out items come.

Two conventions for items a user has already seen, both measured in one pass:
*unmasked* leaves them in the ranking (RecBole's sequential evaluation, the paper's sequential numbers);
*masked* takes them out (RecBole's collaborative evaluation, most other papers).
They answer different questions and are never compared with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ranking.splits import Part, Split
from reland_features.errors import RelandError

K = 10
_SCORES_PER_BLOCK = 1 << 20

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""Maps user rows, int64 [n], to scores of every item, float32 [n, I]."""


@dataclass(frozen=True)
class RankingMetrics:
    """HR@10 and NDCG@10 of each measured user, under both conventions.

    Parameters
    ----------
    users : numpy.ndarray
        int64 [n], rows of the users with held-out items, ascending.
    hit_rate, ndcg : dict of str to numpy.ndarray
        ``"unmasked"`` and ``"masked"`` to float64 [n]. HR is 1 where any held-out item is among the first ten.
    """

    users: np.ndarray
    hit_rate: dict[str, np.ndarray]
    ndcg: dict[str, np.ndarray]

    def means(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """Return means by name, such as ``ndcg@10_masked``, over all users or those where `rows` is true."""
        chosen = slice(None) if rows is None else rows
        return {
            f"{metric}@{K}_{convention}": float(values[convention][chosen].mean())
            for metric, values in (("hr", self.hit_rate), ("ndcg", self.ndcg))
            for convention in values
        }


def full_ranking(score: Scorer, split: Split, part: Part, *, users: np.ndarray | None = None) -> RankingMetrics:
    """Measure a ranking of all items for every user with held-out items.

    An item's position is one more than the number of items with a higher score, plus half of those with an
    equal one; nothing is sorted. An item that a user took several times counts once, among what was seen and among
    what is held out; a held-out item that was seen before, one that is bought again, stays in the masked ranking.

    Parameters
    ----------
    score : callable
        Scores of every item for some users.
    split : Split
        Held-out items and histories.
    part : {"validation", "test"}
        Which held-out items; for the test part, validation items count as seen. Nothing is measured for "next".
    users : numpy.ndarray, optional
        Measure these user rows only.

    Raises
    ------
    RelandError
        A score is NaN.
    """
    owners, items = _distinct(*split.targets(part), split.n_items)
    seen_owners, seen_items = _distinct(*split.seen(part), split.n_items, without=(owners, items))
    if users is not None:
        owners, items = _of_users(owners, items, users)
    measured = np.unique(owners)
    unmasked = np.empty(len(items))
    masked = np.empty(len(items))
    block = max(1, _SCORES_PER_BLOCK // split.n_items)
    for first in range(0, len(measured), block):
        rows = measured[first : first + block]
        with torch.inference_mode():
            scores = score(torch.from_numpy(rows)).cpu()  # numpy counts, see below
            own = slice(*np.searchsorted(owners, [rows[0], rows[-1] + 1]))
            seen = slice(*np.searchsorted(seen_owners, [rows[0], rows[-1] + 1]))
            at = np.searchsorted(rows, owners[own])
            seen_o, seen_i = _of_users(seen_owners[seen], seen_items[seen], rows)
            unmasked[own], seen_before = _positions(scores, at, items[own], np.searchsorted(rows, seen_o), seen_i)
            masked[own] = unmasked[own] - seen_before
    starts = np.searchsorted(owners, measured)
    counts = np.diff(np.append(starts, len(owners)))
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, K + 2)))])[np.minimum(counts, K)]
    hit, ndcg = {}, {}
    for name, position in (("unmasked", unmasked), ("masked", masked)):
        gain = np.where(position <= K, 1 / np.log2(position + 1), 0.0)
        ndcg[name] = np.add.reduceat(gain, starts) / best if len(starts) else gain
        hit[name] = np.maximum.reduceat(position <= K, starts).astype(np.float64) if len(starts) else gain
    return RankingMetrics(measured, hit, ndcg)


def _positions(
    scores: torch.Tensor, at: np.ndarray, items: np.ndarray, seen_at: np.ndarray, seen_items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each target's position among all items, and how many seen items come before it, float64 [T] each.

    No seen item is a target of its user.
    """
    rows, columns = torch.from_numpy(at), torch.from_numpy(items)
    own = scores[rows, columns]
    # NaN compares false with everything: an unnoticed NaN would rank first.
    if torch.isnan(scores.sum()) and torch.isnan(scores).any():
        raise RelandError(
            "a ranker gave NaN scores",
            where="full ranking",
            got=f"{int(torch.isnan(scores).any(1).sum())} of {len(scores)} users",
            hint="lower the learning rate, or look for NaN in the features",
        )
    table, mine = scores.numpy(), own.numpy()
    positions = np.empty(len(at))
    counted = np.empty(table.shape[1], dtype=bool)
    # numpy compares and counts one row, which stays in cache, several times as fast as torch does a matrix.
    for number, (row, threshold) in enumerate(zip(at, mine, strict=True)):
        above = np.count_nonzero(np.greater(table[row], threshold, out=counted))
        not_below = np.count_nonzero(np.greater_equal(table[row], threshold, out=counted))
        positions[number] = 1.0 + above + (not_below - 1 - above) / 2
    seen_scores = scores[torch.from_numpy(seen_at), torch.from_numpy(seen_items)].numpy()
    # Every target against every seen item of its user.
    begin = np.searchsorted(seen_at, at)
    length = np.searchsorted(seen_at, at, side="right") - begin
    target = np.repeat(np.arange(len(at)), length)
    within = np.arange(len(target)) - np.repeat(np.cumsum(length) - length, length)
    index = begin[target] + within
    values, threshold = seen_scores[index], mine[target]
    weight = (values > threshold) + 0.5 * (values == threshold)
    return positions, np.bincount(target, weights=weight, minlength=len(at))


def _distinct(
    owners: np.ndarray, items: np.ndarray, n_items: int, without: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return every (user, item) once, users ascending, but those in `without`."""
    pairs = np.unique(owners * n_items + items)
    if without is not None:
        pairs = np.setdiff1d(pairs, without[0] * n_items + without[1], assume_unique=True)
    return pairs // n_items, pairs % n_items


def _of_users(owners: np.ndarray, items: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.isin(owners, users)
    return owners[kept], items[kept]
