"""The causal transformer of SASRec (Kang & McAuley, ICDM 2018)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Transformer(nn.Module):
    """Item and position embeddings and causal blocks; the last item's output represents the user.

    Item rows are shifted by one: row 0 is padding, which stands on the right, where a causal model
    does not see it.
    """

    def __init__(self, n_items: int, dimension: int, length: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, dimension, padding_idx=0)
        self.positions = nn.Embedding(length, dimension)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0] = 0
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dimension, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dimension)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Map item rows + 1, int64 [B, L], to outputs, float32 [B, L, d]."""
        hidden = self.items(sequences) * self.items.embedding_dim**0.5 + self.positions.weight[: sequences.shape[1]]
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        normed: torch.Tensor = self.norm(hidden)
        return normed


class _Block(nn.Module):
    """Attention and a feed-forward layer, each on normalised input with a residual path."""

    def __init__(self, dimension: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norm_attention, self.norm_forward = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.inward, self.outward = nn.Linear(dimension, 3 * dimension), nn.Linear(dimension, dimension)
        self.first, self.second = nn.Linear(dimension, dimension), nn.Linear(dimension, dimension)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        parts = self.inward(self.norm_attention(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        hidden = hidden + self._drop(self.outward(attended.transpose(1, 2).reshape(batch, length, width)))
        return hidden + self._drop(self.second(self._drop(functional.gelu(self.first(self.norm_forward(hidden))))))

    def _drop(self, values: torch.Tensor) -> torch.Tensor:
        return functional.dropout(values, self.rate, self.training)
