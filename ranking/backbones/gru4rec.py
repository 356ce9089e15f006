"""GRU4Rec (Hidasi et al. 2016), as improved by Tan et al. 2016 and run in RecBole: a GRU over the last items."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ranking.backbones.base import Sides
from ranking.backbones.dropout import dropped
from ranking.backbones.sequences import SequentialBackbone
from ranking.splits import Split


class GRU4Rec(SequentialBackbone):
    """Carry a state from item to item.

    Parameters
    ----------
    split, sides, dimension
        As in `SequentialBackbone`.
    hidden : int
        Width of the GRU's state, mapped to `dimension` by a linear layer.
    layers : int
        GRU layers.
    dropout : float
        On the item embeddings.
    **options
        `length`, `batch_size`, `negatives`, `negative_sampling` of `SequentialBackbone`.

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
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
        **options: Any,
    ) -> None:
        sizes = {"hidden": hidden, "layers": layers}
        self.check_options({**sizes, "dropout": dropout}, counts=tuple(sizes), shares=("dropout",))
        super().__init__(split, sides=sides, dimension=dimension, **options)
        self.rate = dropout
        self.gru = nn.GRU(dimension, hidden, layers, bias=False, batch_first=True)
        self.outward = nn.Linear(hidden, dimension)
        nn.init.xavier_normal_(self.items.weight)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def transform(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs [B, L, d]; see `SequentialBackbone.transform`."""
        states, _ = self.gru(dropped(inputs, self.rate, self.training))
        outputs: torch.Tensor = self.outward(states)
        return outputs
