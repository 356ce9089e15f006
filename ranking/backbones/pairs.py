"""What NeuMF, NGCF and LightGCN share: pairs of an item the user took and one not, and the BPR loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import Backbone, Sides
from ranking.splits import Part, Split
from reland_features.encoders.lightgcn import PairSampler


class Pairs(NamedTuple):
    """Row numbers, int64 [B] each."""

    users: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor


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
        super().__init__(split, sides)
        self.batch_size = batch_size
        self.training_pairs = split.training_pairs()

    def batches(self, generator: np.random.Generator) -> Iterator[Pairs]:
        """Yield every training interaction once, each with a fresh negative."""
        draws = torch.Generator().manual_seed(int(generator.integers(2**63)))
        sampler = PairSampler(*self.training_pairs, self.split.n_users, self.split.n_items, draws)
        for users, positives, negatives in sampler.batches(self.batch_size):
            yield Pairs(users, positives - self.split.n_users, negatives - self.split.n_users)


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
        λ of λ/2 (|e_u|² + |e_i|² + |e_j|²) per pair, on the ID embeddings.

    Subclasses give `propagate`.
    """

    def __init__(
        self,
        split: Split,
        *,
        sides: Sides | None = None,
        dimension: int = 64,
        batch_size: int = 1024,
        regularisation: float = 1e-4,
    ) -> None:
        super().__init__(split, sides=sides, batch_size=batch_size)
        self.regularisation = regularisation
        self.users, self.items = nn.Embedding(split.n_users, dimension), nn.Embedding(split.n_items, dimension)
        for table in (self.users, self.items):
            nn.init.xavier_uniform_(table.weight)
        self.user_side, self.item_side = self.sides.users(dimension), self.sides.items(dimension)
        self._everyone = torch.arange(split.n_users)

    def propagate(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map embeddings of users and then items, [U + I, d], to final ones, [U + I, d']."""
        raise NotImplementedError

    def final(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return propagated user vectors [U, d'] and item vectors [I, d'], before the output side."""
        users = self.user_side(self.users.weight, self._everyone)
        both = self.propagate(torch.cat([users, self.item_side(self.items.weight)]))
        final_users, final_items = both.split([self.split.n_users, self.split.n_items])
        return final_users, final_items

    def loss(self, batch: Pairs) -> torch.Tensor:
        """Return BPR with L2 regularisation."""
        users, items = self.final()
        user = self.output_side.users(functional.embedding(batch.users, users), batch.users)
        # One gather for both: the gradient of each gather is a table of all items.
        compared = torch.cat([batch.positives, batch.negatives])
        positive, negative = functional.embedding(compared, self.output_side.items(items)).chunk(2)
        squares = self.users(batch.users).square().sum() + self.items(compared).square().sum()
        return bpr(user, positive, negative) + 0.5 * self.regularisation * squares / len(user)

    def representations(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors; they know the training part only, whatever the part."""
        users, items = self.final()
        return self.output_side.users(users, self._everyone), self.output_side.items(items)


def bpr(user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return the mean of -ln sigmoid(e_u·e_i - e_u·e_j) over rows of three [B, d] (Rendle et al. 2009)."""
    return functional.softplus(-(user * (positive - negative)).sum(dim=1)).mean()
