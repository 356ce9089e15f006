"""What NeuMF, NGCF and LightGCN share: pairs of an item the user took and one not, and the BPR loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import Backbone, SameOutput, Sides
from ranking.splits import Part, Split
from reland_features.encoders.lightgcn import adjacency
from reland_features.errors import ConfigError


class Pairs(NamedTuple):
    """Row numbers, int64 [B] each."""

    users: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor


class NegativeSampler:
    """Draw items uniformly from those that a user has not taken; from all where there is no other.

    Nothing is drawn twice: the r-th item that a user has not taken is r plus how many taken ones come
    before it, which are those whose own place t_k among the taken items has t_k - k <= r. One binary search
    over all users' sorted t_k - k counts them.

    Parameters
    ----------
    users, items : numpy.ndarray
        int64 [N], what was taken; pairs may repeat.
    n_users, n_items : int
        U and I.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> None:
        pairs = np.unique(users * n_items + items)
        owners = pairs // n_items
        counts = np.bincount(owners, minlength=n_users)
        starts = np.cumsum(counts) - counts
        self._n_items = n_items
        self._keys = torch.from_numpy(pairs - (np.arange(len(pairs)) - starts[owners]))
        self._starts = torch.from_numpy(starts)
        self._free = torch.from_numpy(n_items - counts)

    def draw(self, users: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return an item row for each user row, int64 [B]."""
        free = self._free[users]
        choices = torch.where(free > 0, free, self._n_items)
        # Of 53 random bits, so that no item of a catalogue is likelier than another by more than 1e-9.
        rank = (torch.rand(len(users), dtype=torch.float64, generator=generator) * choices).long()
        before = torch.searchsorted(self._keys, users * self._n_items + rank, right=True) - self._starts[users]
        return torch.where(free > 0, rank + before, rank)


def check_widths(widths: Sequence[int], where: str) -> None:
    """Raise ConfigError where there is no layer, or one without a unit."""
    if not len(widths) or min(widths) < 1:
        raise ConfigError(
            "these are not the widths of layers",
            where=f"{where}.widths",
            got=list(widths),
            expected="one layer or more, each of at least 1 unit",
        )


class PairwiseBackbone(Backbone):
    """Learn to rank an item of the user's training part above one drawn uniformly from the others.

    Parameters
    ----------
    split, sides
        As in `Backbone`.
    batch_size : int
        Pairs per step. Models that propagate over the whole graph pay for it at every step.
    """

    def __init__(self, split: Split, *, sides: Sides | None = None, batch_size: int = 1024) -> None:
        self.check_options({"batch_size": batch_size}, counts=("batch_size",))
        super().__init__(split, sides)
        self.batch_size = batch_size
        self.training_pairs = split.training_pairs()
        self._negatives = NegativeSampler(*self.training_pairs, split.n_users, split.n_items)

    def batches(self, generator: np.random.Generator) -> Iterator[Pairs]:
        """Yield every training interaction once, each with a fresh negative."""
        draws = torch.Generator().manual_seed(int(generator.integers(2**63)))
        users, items = map(torch.from_numpy, self.training_pairs)
        for rows in torch.randperm(len(users), generator=draws).split(self.batch_size):
            yield Pairs(users[rows], items[rows], self._negatives.draw(users[rows], draws))


class GraphBackbone(PairwiseBackbone):
    """Smooth ID embeddings over the graph of users and items, and compare them by a dot product.

    The rationale is fused with the user's ID embedding before it is propagated (Eq. 4).

    Parameters
    ----------
    split, sides, batch_size
        As in `PairwiseBackbone`.
    dimension : int
        Width d of the ID embeddings.
    regularisation : float
        λ of λ/2 (|e_u|² + |e_i|² + |e_j|²) per pair, on the embeddings before propagation, features included.

    Subclasses give `propagate` and `output_side`, and read `_graph`, the normalised adjacency of users and then items,
    sparse CSR, float32 [U + I, U + I].
    """

    _everyone: torch.Tensor
    _everything: torch.Tensor
    _graph: torch.Tensor

    def __init__(
        self,
        split: Split,
        *,
        sides: Sides | None = None,
        dimension: int = 64,
        batch_size: int = 1024,
        regularisation: float = 1e-4,
    ) -> None:
        numbers = {"dimension": dimension, "regularisation": regularisation}
        self.check_options(numbers, counts=("dimension",), not_negative=("regularisation",))
        super().__init__(split, sides=sides, batch_size=batch_size)
        self.regularisation = regularisation
        self.users, self.items = nn.Embedding(split.n_users, dimension), nn.Embedding(split.n_items, dimension)
        for table in (self.users, self.items):
            nn.init.xavier_uniform_(table.weight)
        self.user_side, self.item_side = self.sides.users(dimension), self.sides.items(dimension)
        self.register_buffer("_everyone", torch.arange(split.n_users), persistent=False)
        self.register_buffer("_everything", torch.arange(split.n_items), persistent=False)
        self.register_buffer("_graph", adjacency(*self.training_pairs, split.n_users, split.n_items), persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy all but the graph, which nothing changes, and which torch cannot deep-copy."""
        memo[id(self._graph)] = self._graph
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def propagate(self, embeddings: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Map embeddings of users and then items, [U + I, d], to final ones of all rows or of these, [n, d']."""
        raise NotImplementedError

    def loss(self, batch: Pairs) -> torch.Tensor:
        """Return BPR with L2 regularisation."""
        compared = torch.cat([batch.positives, batch.negatives])
        # An output side maps the table of all items; without one, final vectors are needed for the pairs alone.
        plain = isinstance(self.output_side, SameOutput)
        wanted = compared if plain else self._everything
        embeddings = self._embeddings()
        vectors = self.propagate(embeddings, torch.cat([batch.users, wanted + self.split.n_users]))
        users, items = vectors.split([len(batch.users), len(wanted)])
        user, items = self.output_side.users(users, batch.users), self.output_side.items(items)
        positive, negative = (items if plain else functional.embedding(compared, items)).chunk(2)
        # Of what is propagated, features included: a text that is not held back soon outweighs the IDs.
        squares = (
            functional.embedding(torch.cat([batch.users, compared + self.split.n_users]), embeddings).square().sum()
        )
        return bpr(user, positive, negative) + 0.5 * self.regularisation * squares / len(user)

    def representations(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors; they know the training part only, whatever the part."""
        users, items = self.propagate(self._embeddings()).split([self.split.n_users, self.split.n_items])
        return self.output_side.users(users, self._everyone), self.output_side.items(items)

    def _embeddings(self) -> torch.Tensor:
        users = self.user_side(self.users.weight, self._everyone)
        return torch.cat([users, self.item_side(self.items.weight)])


def bpr(user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return the mean of -ln sigmoid(e_u·e_i - e_u·e_j) over rows of three [B, d] (Rendle et al. 2009)."""
    return functional.softplus(-(user * (positive - negative)).sum(dim=1)).mean()
