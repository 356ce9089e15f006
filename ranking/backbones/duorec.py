"""DuoRec (Qiu et al. 2022): SASRec whose outputs are also contrasted with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ranking.backbones.base import Sides
from ranking.backbones.losses import info_nce
from ranking.backbones.sasrec import SASRec
from ranking.backbones.sequences import Batch
from ranking.splits import Split

_LENGTH_GROUPS = 4


@dataclass(frozen=True)
class Contrast:
    """Histories with the same next item, in pairs: two int64 [N, L] tables of item rows and N last positions each."""

    first: torch.Tensor
    first_last: torch.Tensor
    second: torch.Tensor
    second_last: torch.Tensor


class DuoRec(SASRec):
    """Predict the next item, and tell histories with the same next item from the others of the batch.

    The loss is CE + `weight` · InfoNCE. One view is a history under fresh dropout, the other is another history
    with the same target, with dot products, temperature 1 and 2N - 2 negatives. In RecBole every target is a
    row of its own and every row is contrasted, which encodes everything three times over. Here the
    cross-entropy takes all targets of a window at once, and `contrasts` of the batch's targets are contrasted:
    the same loss on a sample of its rows.

    Parameters
    ----------
    split, sides
        As in `SASRec`.
    weight : float
        Of the contrastive loss.
    contrasts : int
        N, targets of a batch that are contrasted.
    **options
        Of `SASRec`.
    """

    def __init__(
        self, split: Split, *, sides: Sides | None = None, weight: float = 0.1, contrasts: int = 64, **options: Any
    ) -> None:
        super().__init__(split, sides=sides, **options)
        self.weight, self.contrasts = weight, contrasts
        # Every place in the histories but a user's first, grouped by the item there.
        first = np.zeros(len(self._history), dtype=bool)
        first[self._starts[split.training > 0]] = True
        places = np.flatnonzero(~first)
        self._places = places[np.argsort(self._history[places], kind="stable")]
        self._groups = np.searchsorted(self._history[self._places], np.arange(split.n_items + 1))
        self._owner_start = np.repeat(self._starts, split.training)

    def batches(self, generator: np.random.Generator) -> Iterator[tuple[Batch, Contrast]]:  # type: ignore[override]
        """Yield SASRec's batches, each with histories to contrast."""
        for batch in super().batches(generator):
            targets = batch.targets.numpy()
            chosen = targets[generator.permutation(len(targets))[: self.contrasts]]
            yield batch, self._contrast(chosen, generator)

    def loss(self, batch: tuple[Batch, Contrast]) -> torch.Tensor:  # type: ignore[override]
        """Return CE + weight · InfoNCE."""
        ordinary, contrast = batch
        items = self.item_side(self.items.weight)
        outputs = self.encode(items, ordinary.sequences).flatten(0, 1)[ordinary.positions]
        first = self._encode_last(items, contrast.first, contrast.first_last)
        second = self._encode_last(items, contrast.second, contrast.second_last)
        return self.cross_entropy(outputs, items, ordinary) + self.weight * info_nce(first, second)

    def _encode_last(self, items: torch.Tensor, sequences: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Return the output at each row's last position, [N, d]; rows of like length go together."""
        order = torch.argsort(last)
        parts = []
        for rows in order.chunk(_LENGTH_GROUPS):
            cut = sequences[rows, : int(last[rows].max()) + 1]
            parts.append(self.encode(items, cut)[torch.arange(len(rows)), last[rows]])
        return torch.cat(parts)[torch.argsort(order)]

    def _contrast(self, targets: np.ndarray, generator: np.random.Generator) -> Contrast:
        """Draw two different places of each target's item; the same one where it occurs once."""
        begin, size = self._groups[targets], self._groups[targets + 1] - self._groups[targets]
        one = generator.integers(0, size)
        other = (one + generator.integers(1, np.maximum(size, 2))) % size
        first, first_last = self._before(self._places[begin + one])
        second, second_last = self._before(self._places[begin + other])
        return Contrast(first, first_last, second, second_last)

    def _before(self, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the histories before some places, int64 [N, L], and the position of each one's last item."""
        lengths = np.minimum(places - self._owner_start[places], self.length)
        column = np.arange(lengths.max())
        at = np.where(column < lengths[:, None], (places - lengths)[:, None] + column, 0)
        rows = np.where(column < lengths[:, None], self._history[at], 0)
        return torch.from_numpy(rows), torch.from_numpy(lengths - 1)
