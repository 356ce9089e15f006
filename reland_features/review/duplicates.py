"""Rules about rationales that are nearly the same: clusters, because a small model says the same to many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from reland_features.prompts.text import fold
from reland_features.review.base import Finding, ReviewedPool

_BLOCK = 512


class SameEmbedding:
    """Find rationales whose embeddings have a cosine of `review.near_duplicate` or more."""

    name = "same-embedding"

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return a finding for each cluster."""
        lengths = np.linalg.norm(pool.embeddings, axis=1, keepdims=True)
        units = pool.embeddings / np.maximum(lengths, 1e-12)
        yield from _findings(self.name, pool, leaders(units, pool.settings.near_duplicate), "the embedding")


class SameText:
    """Find rationales whose Step 1 sentences share nearly all words and pairs of words (cosine of their counts)."""

    name = "same-text"

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return a finding for each cluster."""
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize

        texts = [fold(rationale.summary) or "-" for rationale in pool.rationales]
        counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", dtype=np.float32).fit_transform(texts)
        yield from _findings(self.name, pool, leaders(normalize(counts), pool.settings.near_duplicate), "Step 1")


def leaders(units: Any, threshold: float) -> npt.NDArray[np.int64]:
    """Cluster rows around leaders: a row joins the first leader that it is close enough to, or becomes one.

    So each member is as close to its leader as `threshold` says, which single linkage would not promise.

    Parameters
    ----------
    units : array or sparse matrix of float
        Rows of length 1, [n, d].
    threshold : float
        Lowest cosine to the leader.

    Returns
    -------
    numpy.ndarray
        Row of each row's leader, int64 [n].
    """
    found = np.empty(units.shape[0], dtype=np.int64)
    chosen: list[int] = []
    for start in range(0, len(found), _BLOCK):
        block = units[start : start + _BLOCK]
        rows = np.arange(start, start + block.shape[0])
        # Cosines to the leaders so far, and to the block itself, whose rows may become leaders.
        known = _dense(block @ units[np.array(chosen, dtype=np.int64)].T) >= threshold - 1e-6
        within = _dense(block @ block.T) >= threshold - 1e-6
        fresh: list[int] = []
        for n, row in enumerate(rows):
            if known.shape[1] and known[n].any():
                found[row] = chosen[int(known[n].argmax())]
                continue
            close = [m for m in fresh if within[n, m]]
            found[row] = rows[close[0]] if close else row
            if not close:
                fresh.append(n)
        chosen += [int(rows[m]) for m in fresh]
    return found


def _findings(name: str, pool: ReviewedPool, leader_of: npt.NDArray[np.int64], what: str) -> Iterable[Finding]:
    seeds = [rationale.seed_user_id for rationale in pool.rationales]
    for leader in np.unique(leader_of):
        members = np.flatnonzero(leader_of == leader)
        if len(members) > 1:
            share = len(members) / len(seeds)
            rationale = pool.rationales[leader]
            said = rationale.summary if what == "Step 1" else ", ".join(rationale.categories) or rationale.summary
            evidence = f"{len(members)} rationales ({share:.0%}) share {what} of {seeds[leader]}: “{said}”"
            yield Finding(name, tuple(seeds[row] for row in members), 0.1 + 0.5 * share, evidence)


def _dense(product: Any) -> npt.NDArray[np.float32]:
    return product.toarray() if hasattr(product, "toarray") else product
