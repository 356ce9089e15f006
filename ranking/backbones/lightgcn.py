"""LightGCN (He et al. 2020): the mean of ID embeddings over 0 to K steps of the normalised graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ranking.backbones.base import Sides
from ranking.backbones.pairs import GraphBackbone
from ranking.splits import Split
from reland_features.encoders.lightgcn import propagate


class LightGCN(GraphBackbone):
    """Average a user's and an item's neighbourhoods.

    Parameters
    ----------
    split, sides, dimension
        As in `GraphBackbone`.
    layers : int
        Propagation steps K; with 0 it is matrix factorisation.
    **options
        `batch_size`, `regularisation` of `GraphBackbone`.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    def __init__(
        self, split: Split, *, sides: Sides | None = None, dimension: int = 64, layers: int = 2, **options: Any
    ) -> None:
        self.check_options({"layers": layers}, not_negative=("layers",))
        super().__init__(split, sides=sides, dimension=dimension, **options)
        self.layers = layers
        self.output_side = self.sides.output(dimension)

    def propagate(self, embeddings: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return (1 / (K + 1)) sum over k of A^k E; see `GraphBackbone.propagate`."""
        final = propagate(embeddings, self._graph, self.layers)
        return final if rows is None else functional.embedding(rows, final)
