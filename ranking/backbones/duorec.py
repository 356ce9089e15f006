"""DuoRec (Qiu et al. 2022): SASRec whose outputs are also contrasted with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ranking.backbones.base import Sides
from ranking.backbones.losses import info_nce
from ranking.backbones.sasrec import SASRec
from ranking.backbones.sequences import Batch, left_aligned
from ranking.splits import Split

_LENGTH_GROUPS = 4


@dataclass(frozen=True)
class Contrast:
    """Some targets of a batch, and for each another history with the same target.

    Parameters
    ----------
    chosen : torch.Tensor
        int64 [N], places in the batch's targets.
    sequences, last : tuple of torch.Tensor
        The other histories, N rows in the order of `chosen`, in groups of like length: item rows int64 [n, L] as
        in `Batch`, and int64 [n], the position of each row's last item.
    """

    chosen: torch.Tensor
    sequences: tuple[torch.Tensor, ...]
    last: tuple[torch.Tensor, ...]


class DuoRec(SASRec):
    """Predict the next item, and tell histories with the same next item from the others of the batch.

    The loss is CE + `weight` · InfoNCE. One view is a history under dropout, the other is another history with
    the same target, anywhere in the training part, under other dropout (the same history where its target
    occurs once); dot products, temperature 1, 2N - 2 negatives.

    RecBole makes each target a row, contrasts every row, and encodes everything three times: for the CE, under
    other dropout, and the other histories. Here the CE takes all targets of a window at once; `contrasts`
    of them are contrasted, and their first view is the output that the CE is taken of. Its dropout is as
    independent of the second view's as that of a pass of its own, so this is the same loss on a sample of rows.

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

    Raises
    ------
    ConfigError
        An option is out of range; `SASRec` is the same without contrasts.
    """

    def __init__(
        self, split: Split, *, sides: Sides | None = None, weight: float = 0.1, contrasts: int = 64, **options: Any
    ) -> None:
        own = {"weight": weight, "contrasts": contrasts}
        self.check_options(own, not_negative=("weight",), counts=("contrasts",))
        super().__init__(split, sides=sides, **options)
        self.weight, self.contrasts = weight, contrasts
        # Every place in the histories but a user's first, grouped by the item there.
        first = np.zeros(len(self._history), dtype=bool)
        first[self._starts[split.training > 0]] = True
        places = np.flatnonzero(~first)
        self._places = places[np.argsort(self._history[places], kind="stable")]
        self._groups = np.searchsorted(self._history[self._places], np.arange(split.n_items + 1))
        self._rank = np.empty(len(self._history), dtype=np.int64)
        self._rank[self._places] = np.arange(len(places)) - self._groups[self._history[self._places]]
        self._owner_start = np.repeat(self._starts, split.training)

    def batches(self, generator: np.random.Generator) -> Iterator[tuple[Batch, Contrast]]:  # type: ignore[override]
        """Yield SASRec's batches, each with histories to contrast."""
        for batch in super().batches(generator):
            yield batch, self._contrast(batch, generator)

    def loss(self, batch: tuple[Batch, Contrast]) -> torch.Tensor:  # type: ignore[override]
        """Return CE + weight · InfoNCE."""
        ordinary, contrast = batch
        items, ordinary, others = self.items_of(ordinary, *contrast.sequences)
        # One gather for all: each has a gradient as large as the table of items.
        sequences = (ordinary.sequences, *others)
        inputs = functional.embedding(torch.cat([rows.flatten() for rows in sequences]), items)
        parts = inputs.split([rows.numel() for rows in sequences])
        own, *views = [self.transform(part.view(*rows.shape, -1)) for part, rows in zip(parts, sequences, strict=True)]
        outputs = own.flatten(0, 1)[ordinary.positions]
        second = [
            view[torch.arange(len(last), device=view.device), last]
            for view, last in zip(views, contrast.last, strict=True)
        ]
        contrastive = info_nce(outputs[contrast.chosen], torch.cat(second))
        return self.cross_entropy(outputs, items, ordinary) + self.weight * contrastive

    def _contrast(self, batch: Batch, generator: np.random.Generator) -> Contrast:
        """Choose targets of a batch, and draw another place of each one's item."""
        chosen = generator.permutation(len(batch.targets))[: self.contrasts]
        places = self._other_places(batch.places[chosen], generator)
        lengths = np.minimum(places - self._owner_start[places], self.length)
        order = np.argsort(lengths, kind="stable")
        sequences, last = [], []
        for rows in np.array_split(order, min(_LENGTH_GROUPS, len(order))):
            histories = left_aligned(self._history, (places - lengths)[rows], lengths[rows])
            sequences.append(torch.from_numpy(histories))
            last.append(torch.from_numpy(lengths[rows] - 1))
        return Contrast(torch.from_numpy(chosen[order]), tuple(sequences), tuple(last))

    def _other_places(self, places: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw for each place another with the same item; the same place where there is no other."""
        items = self._history[places]
        begin, size = self._groups[items], self._groups[items + 1] - self._groups[items]
        return self._places[begin + (self._rank[places] + generator.integers(1, np.maximum(size, 2))) % size]
