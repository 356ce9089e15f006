"""SASRec (Kang and McAuley 2018): a causal transformer over the last items."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import Sides
from ranking.backbones.dropout import dropped
from ranking.backbones.sequences import SequentialBackbone, initialise
from ranking.splits import Split
from reland_features.errors import ConfigError


class SASRec(SequentialBackbone):
    """Attend to the items before each position.

    Assumes that what comes next depends on the last `length` items and their order. As in RecBole, with
    learnt positions, a normalised input, GELU and normalisation after each sublayer.

    Parameters
    ----------
    split, sides, dimension
        As in `SequentialBackbone`.
    layers, heads, inner : int
        Transformer layers, attention heads (a divisor of `dimension`), width of the feed-forward layer.
    dropout : float
        On the input, on attention and after each sublayer.
    norm_first : bool
        Normalise before each sublayer instead of after it.
    **options
        `length`, `batch_size`, `negatives`, `negative_sampling` of `SequentialBackbone`.

    Raises
    ------
    ConfigError
        An option is out of range, or `heads` does not divide `dimension`.
    """

    def __init__(
        self,
        split: Split,
        *,
        sides: Sides | None = None,
        dimension: int = 64,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        norm_first: bool = False,
        **options: Any,
    ) -> None:
        sizes = {"layers": layers, "heads": heads, "inner": inner}
        self.check_options({**sizes, "dropout": dropout}, counts=tuple(sizes), shares=("dropout",))
        if dimension % heads:
            raise ConfigError(
                "heads do not divide the dimension", where=type(self).__name__.lower(), got=heads, expected=dimension
            )
        super().__init__(split, sides=sides, dimension=dimension, **options)
        self.rate = dropout
        self.positions = nn.Embedding(self.length, dimension)
        self.input_norm = nn.LayerNorm(dimension)
        self.blocks = nn.ModuleList(_Block(dimension, heads, inner, dropout, norm_first) for _ in range(layers))
        self.output_norm = nn.LayerNorm(dimension) if norm_first else nn.Identity()
        for module in (self.items, self.positions, self.blocks):
            initialise(module)

    def transform(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs [B, L, d]; see `SequentialBackbone.transform`."""
        hidden = inputs + self.positions.weight[: inputs.shape[1]]
        hidden = dropped(self.input_norm(hidden), self.rate, self.training)
        for block in self.blocks:
            hidden = block(hidden)
        outputs: torch.Tensor = self.output_norm(hidden)
        return outputs


class _Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each with a residual path and normalisation."""

    def __init__(self, dimension: int, heads: int, inner: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.rate, self.norm_first = heads, dropout, norm_first
        self.attention_norm, self.forward_norm = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.inward, self.outward = nn.Linear(dimension, 3 * dimension), nn.Linear(dimension, dimension)
        self.first, self.second = nn.Linear(dimension, inner), nn.Linear(inner, dimension)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.norm_first:
            hidden = hidden + self._attend(self.attention_norm(hidden))
            return hidden + self._feed_forward(self.forward_norm(hidden))
        hidden = self.attention_norm(hidden + self._attend(hidden))
        result: torch.Tensor = self.forward_norm(hidden + self._feed_forward(hidden))
        return result

    def _attend(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        parts = self.inward(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # Rows are left-aligned: what is padding comes after every real position, and causality hides it.
        if self.training and self.rate:
            query, key, value = (part.reshape(batch * self.heads, length, -1) for part in (query, key, value))
            future = torch.full((length, length), -torch.inf, dtype=query.dtype, device=hidden.device).triu_(1)
            scores = torch.baddbmm(future, query, key.transpose(1, 2), alpha=(width // self.heads) ** -0.5)
            attended = dropped(scores.softmax(dim=2), self.rate, training=True) @ value
            attended = attended.view(batch, self.heads, length, -1)
        else:
            attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        merged = attended.transpose(1, 2).reshape(batch, length, width)
        return dropped(self.outward(merged), self.rate, self.training)

    def _feed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return dropped(self.second(functional.gelu(self.first(hidden))), self.rate, self.training)
