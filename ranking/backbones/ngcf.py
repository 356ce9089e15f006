"""NGCF (Wang et al. 2019): layers of messages that multiply a neighbour with the node itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import Sides
from ranking.backbones.pairs import GraphBackbone, check_widths
from ranking.splits import Split

_SLOPE = 0.2


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

    Raises
    ------
    ConfigError
        An option is out of range.
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
        self.check_options({"dropout": dropout}, shares=("dropout",))
        check_widths(widths, type(self).__name__.lower())
        super().__init__(split, sides=sides, dimension=dimension, **options)
        self.rate = dropout
        pairs = list(zip([dimension, *widths], widths, strict=False))
        self.sums = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in pairs)
        self.products = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in pairs)
        for layer in (*self.sums, *self.products):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.output_side = self.sides.output(dimension + sum(widths))

    def propagate(self, embeddings: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return [E, E1, E2, ...] side by side; see `GraphBackbone.propagate`."""
        distinct, places = (None, None) if rows is None else torch.unique(rows, return_inverse=True)
        rate = self.rate if self.training else 0.0
        # Leaky ReLU commutes with a positive factor: dropout's goes on the small weights.
        scale = 1 / (1 - rate)
        outputs = [_rows(embeddings, distinct)]
        for added, multiplied in zip(self.sums, self.products, strict=True):
            last = added is self.sums[-1]
            embeddings = _Messages.apply(
                embeddings,
                scale * added.weight,
                scale * multiplied.weight,
                scale * (added.bias + multiplied.bias),
                self._graph,
                distinct if last else None,  # nobody asks for the other rows of the last layer
                rate,
            )
            outputs.append(functional.normalize(embeddings if last else _rows(embeddings, distinct), dim=1))
        return _rows(torch.cat(outputs, dim=1), places)


class _Messages(torch.autograd.Function):
    """dropout(leaky_relu(W1 (A + I) E + W2 (A E ⊙ E) + b)), but for dropout's factor, of all rows or of distinct ones.

    By hand, because each table of all nodes that is not written saves a millisecond or two. A is symmetric,
    so the gradient needs no transpose.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        added_weight: torch.Tensor,
        multiplied_weight: torch.Tensor,
        bias: torch.Tensor,
        graph: torch.Tensor,
        rows: torch.Tensor | None,
        rate: float,
    ) -> torch.Tensor:
        ctx.graph, ctx.rows, ctx.shape = graph, rows, embeddings.shape
        sums = _rows(torch.addmm(embeddings, graph, embeddings), rows)
        own = _rows(embeddings, rows)
        neighbours = sums - own
        products = neighbours * own
        messages = torch.addmm(bias, sums, added_weight.T).addmm_(products, multiplied_weight.T)
        # As many random places as leave a share of 1 - rate untouched: a third of the time of one draw a number.
        count = round(-math.log1p(-rate) * messages.numel())
        ctx.dropped = torch.randint(messages.numel(), (count,), device=messages.device)
        messages.view(-1).index_fill_(0, ctx.dropped, 0.0)
        functional.leaky_relu_(messages, _SLOPE)
        ctx.save_for_backward(sums, own, neighbours, products, messages, added_weight, multiplied_weight)
        return messages

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        sums, own, neighbours, products, messages, added_weight, multiplied_weight = ctx.saved_tensors
        gradient = torch.ops.aten.leaky_relu_backward(gradients[0], messages, _SLOPE, self_is_result=True)
        gradient.view(-1).index_fill_(0, ctx.dropped, 0.0)
        of_sums, of_products = gradient @ added_weight, gradient @ multiplied_weight
        of_neighbours = _spread(torch.addcmul(of_sums, of_products, own), ctx.rows, ctx.shape)
        of_own = _spread(of_sums.addcmul_(of_products, neighbours), ctx.rows, ctx.shape)
        return (
            torch.addmm(of_own, ctx.graph, of_neighbours),
            gradient.T @ sums,
            gradient.T @ products,
            gradient.sum(dim=0),
            None,
            None,
            None,
        )


def _rows(table: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return table if rows is None else functional.embedding(rows, table)


def _spread(values: torch.Tensor, rows: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """Put values where `_rows` took them from, and zeros elsewhere."""
    return values if rows is None else values.new_zeros(shape).index_copy_(0, rows, values)
