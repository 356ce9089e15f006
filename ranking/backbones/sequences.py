"""What SASRec, GRU4Rec and DuoRec share: windows of histories, batches of them, the loss and users' outputs.

RecBole makes one padded row of 50 items for every target. Here all positions of a window are trained on in one
causal pass, so that an item is encoded once (twice where windows overlap) and not up to 50 times, and rows
of like length share a batch, so that hardly anything is padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import Backbone, SameOutput, Sides
from ranking.backbones.losses import full_softmax_loss, sampled_softmax_loss
from ranking.splits import Part, Split
from reland_features.encoders.sasrec import windows
from reland_features.errors import ConfigError, TableError

_ROWS_PER_BLOCK = 1024


@dataclass(frozen=True)
class Batch:
    """Windows of histories and the positions that are trained on.

    Parameters
    ----------
    sequences : torch.Tensor
        Item rows, int64 [B, L], left-aligned; what follows a row's last item is 0 and never looked at.
    positions : torch.Tensor
        int64 [T], places in the flattened [B * L] whose output predicts a target.
    targets, users : torch.Tensor
        int64 [T], item and user row of each.
    places : numpy.ndarray
        int64 [T], which of the training part's interactions each target is.
    negatives, log_q : torch.Tensor or None
        int64 [n], item rows that all targets share, and the logarithms of how often each was to be expected;
        None is the full softmax.
    """

    sequences: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    users: torch.Tensor
    places: np.ndarray
    negatives: torch.Tensor | None
    log_q: torch.Tensor | None


class SequentialBackbone(Backbone):
    """Predict the next item from the items before it.

    Sequential backbones have no user ID embedding, and the paper does not say what the rationale is fused
    with: here it is the output at every position, with the rationale of the row's user.

    Parameters
    ----------
    split, sides
        As in `Backbone`.
    dimension : int
        Width d of item embeddings and outputs.
    length : int
        Items the model sees.
    batch_size : int
        Targets per step.
    negatives : int
        Items drawn per step and shared by its targets; 0 is the softmax over all items.
    negative_sampling : {"uniform", "popularity"}
        How they are drawn; the loss is corrected for it (`sampled_softmax_loss`).

    Raises
    ------
    ConfigError
        An option is out of range, or there is no such way to draw.

    Subclasses give `transform`.
    """

    def __init__(
        self,
        split: Split,
        *,
        sides: Sides | None = None,
        dimension: int = 64,
        length: int = 50,
        batch_size: int = 1024,
        negatives: int = 0,
        negative_sampling: Literal["uniform", "popularity"] = "uniform",
    ) -> None:
        if negative_sampling not in ("uniform", "popularity"):
            raise ConfigError("no such negative_sampling", got=negative_sampling, expected="uniform or popularity")
        sizes = {"dimension": dimension, "length": length, "batch_size": batch_size}
        self.check_options(sizes, counts=tuple(sizes))
        self.check_options({"negatives": negatives}, not_negative=("negatives",))
        super().__init__(split, sides)
        self.length, self.batch_size = length, batch_size
        self.negatives, self.negative_sampling = negatives, negative_sampling
        self.items = nn.Embedding(split.n_items, dimension)
        self.item_side, self.user_side = self.sides.items(dimension), self.sides.users(dimension)
        self.output_side = self.sides.output(dimension)
        _, self._history = split.training_pairs()
        self._starts = np.cumsum(split.training) - split.training
        # From places in the training part to places in all parts: what a user has in the others lies between.
        self._shift = np.repeat(split.offsets[:-1] - self._starts, split.training)
        popular = np.bincount(self._history, minlength=split.n_items) / len(self._history)
        self._chance = popular if negative_sampling == "popularity" else np.full(split.n_items, 1 / split.n_items)
        self._cumulative = np.cumsum(self._chance)

    def encode(self, items: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
        """Map item embeddings [I, d] and item rows [B, L] to outputs [B, L, d] that look at no later item."""
        return self.transform(functional.embedding(sequences, items))

    def transform(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map the embeddings [B, L, d] of sequences to outputs [B, L, d] that look at no later item."""
        raise NotImplementedError

    def batches(self, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield the windows of all histories; every interaction but a user's first is a target once.

        Raises
        ------
        TableError
            No user has two training interactions. Raised here and not when the backbone is made, because a model that
            is served is made without the histories it was trained on.
        """
        if not (self.split.training > 1).any():
            raise TableError(
                "there is no next item to learn from",
                where=f"{type(self).__name__}, training part",
                got=f"{int(self.split.training.sum())} interactions of {self.split.n_users} users, one each at most",
                expected="two or more training interactions of some user",
                hint="give longer histories, or train one that needs no order, such as lightgcn",
            )
        starts, lengths, fresh = windows(self._starts, self.split.training, self.length, generator)
        owners = np.searchsorted(self._starts, starts, side="right") - 1
        order = np.lexsort((generator.random(len(starts)), lengths))
        order = order[lengths[order] > 0]
        done = np.cumsum((lengths - fresh)[order])
        batches = np.split(order, np.flatnonzero(np.diff((done - 1) // self.batch_size)) + 1)
        for number in generator.permutation(len(batches)):
            rows = batches[number]
            sequences = left_aligned(self._history, starts[rows], lengths[rows])
            column = np.arange(sequences.shape[1])
            is_target = (column >= fresh[rows, None]) & (column < lengths[rows, None])
            places = (starts[rows, None] + column)[is_target] + 1
            yield Batch(
                torch.from_numpy(sequences),
                torch.from_numpy(np.flatnonzero(is_target)),
                torch.from_numpy(self._history[places]),
                torch.from_numpy(np.broadcast_to(owners[rows, None], is_target.shape)[is_target]),
                places,
                *self._draw(generator),
            )

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy of the targets."""
        items, batch, _ = self.items_of(batch)
        outputs = self.encode(items, batch.sequences).flatten(0, 1)[batch.positions]
        return self.cross_entropy(outputs, items, batch)

    def items_of(self, batch: Batch, *more: torch.Tensor) -> tuple[torch.Tensor, Batch, tuple[torch.Tensor, ...]]:
        """Return the item embeddings of a step [n, d], and the batch and more sequences with rows of these.

        They are those that are named, so that item features are encoded for some hundreds and not for all. The
        full softmax and an output side read all items: there rows stay as they are.
        """
        if batch.negatives is None or not isinstance(self.output_side, SameOutput):
            return self.item_side(self.items.weight), batch, more
        named = (batch.targets, batch.negatives, batch.sequences, *more)
        rows, places = torch.unique(torch.cat([each.flatten() for each in named]), return_inverse=True)
        parts = places.split([each.numel() for each in named])
        targets, negatives, sequences, *others = (p.view_as(each) for p, each in zip(parts, named, strict=True))
        items = self.item_side(functional.embedding(rows, self.items.weight), rows)
        return items, replace(batch, targets=targets, negatives=negatives, sequences=sequences), tuple(others)

    def cross_entropy(self, outputs: torch.Tensor, items: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of outputs [T, d] at a batch's positions, once users' features have come in."""
        rows = batch.users
        if self.sides.by_event:
            rows = torch.from_numpy((batch.places - 1) + self._shift[batch.places]).to(outputs.device)
        users = self.output_side.users(self.user_side(outputs, rows), rows)
        candidates = self.output_side.items(items)
        if batch.negatives is None or batch.log_q is None:
            return full_softmax_loss(users, candidates, batch.targets)
        return sampled_softmax_loss(users, candidates, batch.targets, batch.negatives, batch.log_q)

    def representations(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output after each user's last item before a part, and the item vectors.

        A user without any item before the part starts from zeros.
        """
        items = self.item_side(self.items.weight)
        outputs = self.last_outputs(items, part)
        rows = torch.from_numpy(self._last_events(part)) if self.sides.by_event else torch.arange(len(outputs))
        rows = rows.to(outputs.device)
        return self.output_side.users(self.user_side(outputs, rows), rows), self.output_side.items(items)

    def last_outputs(self, items: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the output after each user's last `length` items before a part, [U, d]."""
        ends = self.split.offsets[:-1] + self.split.history_lengths(part)
        kept = np.minimum(self.split.history_lengths(part), self.length)
        outputs = items.new_zeros(self.split.n_users, items.shape[1])
        order = np.argsort(kept, kind="stable")
        order = order[kept[order] > 0]
        for rows in np.array_split(order, -(-len(order) // _ROWS_PER_BLOCK)) if len(order) else []:
            sequences = left_aligned(self.split.items, (ends - kept)[rows], kept[rows])
            hidden = self.encode(items, torch.from_numpy(sequences).to(items.device))
            outputs[torch.from_numpy(rows)] = hidden[torch.arange(len(rows)), torch.from_numpy(kept[rows] - 1)]
        return outputs

    def _last_events(self, part: Part) -> np.ndarray:
        """Return the place of each user's last interaction before a part, int64 [U]; -1 where there is none."""
        lengths = self.split.history_lengths(part)
        return np.where(lengths > 0, self.split.offsets[:-1] + lengths - 1, -1)

    def _draw(self, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        if not self.negatives or self.negatives >= self.split.n_items:
            return None, None
        drawn = np.searchsorted(self._cumulative, generator.random(self.negatives), side="right")
        drawn = np.minimum(drawn, self.split.n_items - 1)
        log_q = np.log(self._chance[drawn] * self.negatives).astype(np.float32)
        return torch.from_numpy(drawn), torch.from_numpy(log_q)


def left_aligned(items: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return ``items[starts[n]:starts[n] + lengths[n]]`` as rows, int64 [n, longest], zeros behind the shorter."""
    column = np.arange(lengths.max())
    inside = column < lengths[:, None]
    return np.where(inside, items[np.where(inside, starts[:, None] + column, 0)], 0)


def initialise(module: nn.Module) -> None:
    """Draw linear and embedding weights from N(0, 0.02²), as BERT and RecBole's transformers do."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
