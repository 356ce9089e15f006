"""Item-kNN: items that the same users took. A floor that a ranker must be above."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags

from ranking.backbones.base import Backbone, Sides
from ranking.full_ranking import Scorer
from ranking.splits import Part, Split


class ItemKNN(Backbone):
    """Score an item by the sum of its cosines with the user's items; nothing is learnt.

    Parameters
    ----------
    split, sides
        As in `Backbone`.
    neighbours : int
        Most similar items that each item keeps.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    def __init__(self, split: Split, *, sides: Sides | None = None, neighbours: int = 100) -> None:
        self.check_options({"neighbours": neighbours}, counts=("neighbours",))
        super().__init__(split, sides)
        taken = self._matrix(*split.training_pairs())
        counts = np.asarray(taken.sum(axis=0)).ravel()
        length = diags(1 / np.sqrt(np.maximum(counts, 1)))
        cosine = length @ (taken.T @ taken) @ length
        cosine = (cosine - diags(cosine.diagonal())).tocsr()
        cosine.eliminate_zeros()
        self._similar = _largest(cosine, neighbours)

    def scorer(self, part: Part) -> Scorer:
        """Return a function that sums similarities over each user's items before a part."""
        histories = self._matrix(*self.split.history(part))
        return lambda rows: torch.from_numpy((histories[rows.numpy()] @ self._similar).toarray())

    def _matrix(self, users: np.ndarray, items: np.ndarray) -> csr_matrix:
        shape = (self.split.n_users, self.split.n_items)
        matrix = csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=shape)
        matrix.data[:] = 1.0  # an item taken twice counts once
        return matrix


def _largest(matrix: csr_matrix, count: int) -> csr_matrix:
    """Keep the `count` largest values of each row; of equal ones, those of the first columns."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, rows))
    rank = np.arange(len(order)) - matrix.indptr[rows[order]]
    kept = order[rank < count]
    return csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)
