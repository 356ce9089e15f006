"""Which rationales each user has, and the controls made from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ranking.compact_views import FeaturesError


@dataclass(frozen=True, eq=False)
class Rationales:
    """Which rationales each user has: a small table and rows into it (the compact layout).

    Parameters
    ----------
    embeddings : numpy.ndarray
        float32 [S, D], one row per seed's rationale.
    rows : numpy.ndarray
        int64 [U, k], rows of `embeddings` for each user, best first; -1 is none.
    weights : numpy.ndarray
        float32 [U, k], summing to 1 over the rationales a user has; k = 1 is Eq. (3).

    Raises
    ------
    FeaturesError
        An embedding is not finite, a row points outside the table, or weights do not sum to 1.
    """

    embeddings: np.ndarray
    rows: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        shapes = f"embeddings {self.embeddings.shape}, rows {self.rows.shape}, weights {self.weights.shape}"
        if self.embeddings.ndim != 2 or self.rows.ndim != 2 or self.rows.shape != self.weights.shape:
            raise FeaturesError("these are no rationales", got=shapes, expected="[S, D], [U, k] and [U, k]")
        if not len(self.embeddings) or not self.rows.size:
            raise FeaturesError("there are no rationales", got=shapes)
        outside = int(((self.rows < -1) | (self.rows >= len(self.embeddings))).any(axis=1).sum())
        broken = int((~np.isfinite(self.embeddings)).any(axis=1).sum())
        sums = np.where(self.rows >= 0, self.weights, 0.0).sum(axis=1)
        unequal = int((~np.isclose(sums, self.has, atol=1e-4)).sum())
        if outside or broken or unequal:
            raise FeaturesError(
                "rationales cannot be used",
                got=f"{broken:,} embeddings hold NaN or infinity; {outside:,} users have rows outside the table, "
                f"{unequal:,} users have weights that do not sum to 1",
                expected=f"finite embeddings, rows from -1 to {len(self.embeddings) - 1}",
            )

    @property
    def n_users(self) -> int:
        """How many users there are, U."""
        return len(self.rows)

    @property
    def has(self) -> np.ndarray:
        """Whether a user has any rationale, bool [U]: the mask."""
        return np.asarray((self.rows >= 0).any(axis=1))

    @classmethod
    def of_users(cls, embeddings: np.ndarray, has: np.ndarray | None = None) -> Rationales:
        """Give each user a text of its own, the ceiling of what retrieval can give.

        Parameters
        ----------
        embeddings : numpy.ndarray
            float32 [U, D].
        has : numpy.ndarray, optional
            bool [U], who has a text; everybody unless given.
        """
        has = np.ones(len(embeddings), dtype=bool) if has is None else has
        rows = np.where(has, np.cumsum(has) - 1, -1)[:, None].astype(np.int64)
        return cls(embeddings[has], rows, (rows >= 0).astype(np.float32))

    def shuffled(self, seed: int) -> Rationales:
        """Deal the users' rationales out to other users, those of nobody included: the first control.

        How often each rationale occurs stays, and so does how many users have none; who has which is chance.
        """
        order = np.random.default_rng(seed).permutation(self.n_users)
        return dataclasses.replace(self, rows=self.rows[order], weights=self.weights[order])

    def permuted(self, seed: int) -> Rationales:
        """Deal the texts out among the seeds: the match without its text.

        Which users share a rationale stays, and so does which rationales there are; what a user's says is chance.
        """
        order = np.random.default_rng(seed).permutation(len(self.embeddings))
        return dataclasses.replace(self, embeddings=self.embeddings[order])

    def constant(self) -> Rationales:
        """Give every user who has a rationale the same vector, the mean of the table: the second control."""
        rows = np.where(self.has, 0, -1)[:, None].astype(np.int64)
        mean = self.embeddings.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        return Rationales(mean, rows, (rows >= 0).astype(np.float32))

    def without(self, users: np.ndarray) -> Rationales:
        """Take the rationales of some users away; `users` are rows, int64 [n], or a mask, bool [U]."""
        rows, weights = self.rows.copy(), self.weights.copy()
        rows[users], weights[users] = -1, 0.0
        return dataclasses.replace(self, rows=rows, weights=weights)
