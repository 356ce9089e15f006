"""NGCF (Wang et al. 2019): layers of messages that multiply a neighbour with the node itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import Sides
from ranking.backbones.pairs import GraphBackbone
from ranking.splits import Split
from reland_features.encoders.lightgcn import adjacency


class NGCF(GraphBackbone):
    """Add to each node what its neighbours have, and what they have in common with it.

    As in RecBole: leaky ReLU of slope 0.2, dropout on messages, each layer's output of unit length, all
    layers side by side.

    Parameters
    ----------
    split, sides, dimension
        As in `GraphBackbone`.
    widths : sequence of int
        Output width of each layer.
    dropout : float
        On messages.
    **options
        `batch_size`, `regularisation` of `GraphBackbone`.
    """

    def __init__(
        self,
        split: Split,
        *,
        sides: Sides | None = None,
        dimension: int = 64,
        widths: Sequence[int] = (64, 64, 64),
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(split, sides=sides, dimension=dimension, **options)
        self.rate = dropout
        pairs = list(zip([dimension, *widths], widths, strict=False))
        self.sums = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in pairs)
        self.products = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in pairs)
        for layer in (*self.sums, *self.products):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.output_side = self.sides.output(dimension + sum(widths))
        self._graph = adjacency(*self.training_pairs, split.n_users, split.n_items)

    def propagate(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return [E, E1, E2, ...] side by side; see `GraphBackbone.propagate`."""
        outputs = [embeddings]
        for added, multiplied in zip(self.sums, self.products, strict=True):
            neighbours: torch.Tensor = _Neighbours.apply(embeddings, self._graph)
            # W1 (A + I) E + W2 (A E ⊙ E), as one product of the two inputs side by side
            both = torch.cat([neighbours + embeddings, neighbours * embeddings], dim=1)
            weight = torch.cat([added.weight, multiplied.weight], dim=1)
            messages = functional.leaky_relu(
                functional.linear(both, weight, added.bias + multiplied.bias), 0.2, inplace=True
            )
            embeddings = functional.dropout(messages, self.rate, self.training)
            outputs.append(functional.normalize(embeddings, dim=1))
        return torch.cat(outputs, dim=1)


class _Neighbours(torch.autograd.Function):
    """A E; A is symmetric, so the gradient is A G and no transpose is made."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        ctx.graph = graph
        return graph @ embeddings

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.graph @ gradients[0].contiguous(), None
