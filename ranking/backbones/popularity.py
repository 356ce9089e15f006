"""Popularity: everyone gets what most users took. A floor that a ranker must be above."""

from __future__ import annotations

import numpy as np
import torch

from ranking.backbones.base import Backbone, Sides
from ranking.full_ranking import Scorer
from ranking.splits import Part, Split


class Popularity(Backbone):
    """Score an item by its number of training interactions; nothing is learnt."""

    def __init__(self, split: Split, *, sides: Sides | None = None) -> None:
        super().__init__(split, sides)
        _, items = split.training_pairs()
        self._counts = torch.from_numpy(np.bincount(items, minlength=split.n_items).astype(np.float32))

    def scorer(self, part: Part) -> Scorer:
        """Return the same scores for every user."""
        return lambda rows: self._counts.expand(len(rows), -1)
