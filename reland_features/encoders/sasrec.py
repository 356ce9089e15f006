"""Encode behaviour with SASRec (Kang & McAuley, ICDM 2018): a causal transformer over the history."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch.nn import functional

from reland_features.encoders import training as loop
from reland_features.encoders.base import FITTED, BehaviorVectors
from reland_features.encoders.transformer import Transformer
from reland_features.interactions import Interactions, rows_of

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
_ITEMS, _WEIGHTS = f"{FITTED}items.parquet", f"{FITTED}weights.pt"


def sampled_softmax_loss(
    outputs: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, log_q: torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy of each target against negatives shared by the batch.

    A negative j that was drawn n times in expectation counts as exp(s_j) / n: its logit is lowered by
    log_q, so that the sum estimates the full softmax's. A negative that is the target is left out.

    Parameters
    ----------
    outputs, items : torch.Tensor
        [T, d] and [I, d].
    targets, negatives : torch.Tensor
        Item rows, int64 [T] and [n].
    log_q : torch.Tensor
        Logarithm of the expected number of draws of each negative, [n].
    """
    positive = (outputs * functional.embedding(targets, items)).sum(dim=1, keepdim=True)
    sampled = outputs @ functional.embedding(negatives, items).T - log_q
    sampled = sampled.masked_fill(targets[:, None] == negatives, -torch.inf)
    return -functional.log_softmax(torch.cat([positive, sampled], dim=1), dim=1)[:, 0].mean()


@dataclass
class SASRec:
    """Represent a user by the transformer's output after the user's last interaction.

    Assumes that the order of behaviour matters and that the last `length` interactions say enough.
    Histories are cut into windows that overlap by half, with a new phase every epoch, so that every
    interaction is a target with context. Validation as in `LightGCN`; the returned vectors read every
    user's history to its end.

    Parameters
    ----------
    dimension, seed : int
        As in `LightGCN`.
    length : int
        Items the model sees.
    layers, heads : int
        Of the transformer; `heads` divides `dimension`.
    dropout : float
        On embeddings, attention and layers.
    negatives : int
        Items drawn by popularity and shared by a batch; with as many items or fewer, the softmax is full.
    batch_size : int
        Inputs per step, context included.
    learning_rate : float
        Adam's step.
    max_epochs, patience : int
        Early stopping on held-out NDCG@10.
    """

    dimension: int = 64
    seed: int = 0
    length: int = 50
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    negatives: int = 512
    batch_size: int = 4096
    learning_rate: float = 1e-3
    max_epochs: int = 100
    patience: int = 5
    training: dict[str, Any] | None = dataclasses.field(default=None, init=False, repr=False)
    """How the last `encode` went: epochs, best_epoch, ndcg_at_10, recall_at_20."""
    fitted: tuple[pl.Series, Transformer] | None = dataclasses.field(default=None, init=False, repr=False)
    """What the last `encode` learnt: the items and the model."""

    def __post_init__(self) -> None:
        whole = ("layers", "heads", "negatives", "batch_size", "max_epochs", "patience")
        loop.check_options(
            "sasrec",
            self,
            at_least={**dict.fromkeys(whole, 1), "length": 2},
            above_zero=("learning_rate",),
            below_one=("dropout",),
        )
        if self.dimension % self.heads:
            raise loop.wrong_option("sasrec", "heads", self.heads, f"a divisor of encoder.dimension {self.dimension}")

    @property
    def encoder_id(self) -> str:
        """Name and every parameter that changes vectors."""
        return loop.encoder_id("sasrec", self)

    def encode(self, interactions: Interactions, as_of: datetime) -> BehaviorVectors:
        """Fit on interactions at or before `as_of`; return the last outputs, float32 [U, d].

        Raises
        ------
        TableError
            There are no interactions at or before `as_of`.
        ConfigError
            Training diverged.
        """
        started = time.perf_counter()
        interactions = interactions.as_of(as_of)
        generator = np.random.default_rng(self.seed)
        data = loop.split(interactions, generator)
        # dropout and initial weights take torch's global generator: leave the caller's as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**63)))
            model = self._model(data.n_items)
            optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
            frequency = np.bincount(data.items, minlength=data.n_items) / len(data.items)

            def run_epoch() -> float:
                total, count = 0.0, 0
                for sequences, targets in self._batches(data, generator):
                    real = targets >= 0
                    outputs = model(torch.from_numpy(sequences))[torch.from_numpy(real)]
                    loss = self._loss(outputs, model, torch.from_numpy(targets[real]), frequency, generator)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total, count = total + loss.item() * len(outputs), count + len(outputs)
                return total / max(count, 1)

            def scores() -> Any:
                items = model.items.weight[1:]
                return lambda rows: torch.from_numpy(self._represent(model, data, rows, data.lengths)) @ items.T

            result = loop.train(
                model, run_epoch, scores, data, max_epochs=self.max_epochs, patience=self.patience, where="sasrec"
            )
            vectors = self._represent(model, data, np.arange(data.n_users), np.diff(data.offsets))
        self.training, self.fitted = result.as_dict(), (interactions.item_ids, model)
        logger.info("sasrec %s, %.1f s", result, time.perf_counter() - started)
        return BehaviorVectors(interactions.user_ids, vectors, self.encoder_id, as_of)

    def save(self, folder: Path) -> None:
        """Write what the last `encode` learnt."""
        if self.fitted is None:
            raise RuntimeError("nothing is encoded yet")
        items, model = self.fitted
        pl.DataFrame({"item_id": items}).write_parquet(folder / _ITEMS)
        torch.save(model.state_dict(), folder / _WEIGHTS)

    def transform(self, interactions: Interactions, as_of: datetime, fitted: Path) -> BehaviorVectors:
        """Read every history to its end with what `save` wrote; items that the fit has not seen are passed over."""
        interactions = interactions.as_of(as_of)
        items = pl.read_parquet(fitted / _ITEMS)["item_id"]
        with torch.random.fork_rng(devices=[]):  # initial weights, which the next line replaces
            model = self._model(len(items))
        model.load_state_dict(torch.load(fitted / _WEIGHTS, weights_only=True))
        rows = rows_of(interactions.item_ids, items)[interactions.item_rows]
        n_users = len(interactions.user_ids)
        lengths = np.bincount(interactions.user_rows[rows >= 0], minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        data = loop.Split(n_users, len(items), offsets, rows[rows >= 0], np.empty(0, np.int64))
        found = np.flatnonzero(lengths)
        vectors = self._represent(model, data, found, lengths)
        return BehaviorVectors(interactions.user_ids.gather(found), vectors, self.encoder_id, as_of)

    def _model(self, n_items: int) -> Transformer:
        return Transformer(n_items, self.dimension, self.length, self.layers, self.heads, self.dropout)

    def _loss(
        self,
        outputs: torch.Tensor,
        model: Transformer,
        targets: torch.Tensor,
        frequency: npt.NDArray[np.float64],
        generator: np.random.Generator,
    ) -> torch.Tensor:
        items = model.items.weight[1:]
        if self.negatives >= len(frequency):
            return functional.cross_entropy(outputs @ items.T, targets)
        drawn = generator.choice(len(frequency), self.negatives, p=frequency)
        log_q = torch.from_numpy(np.log(frequency[drawn] * self.negatives).astype(np.float32))
        return sampled_softmax_loss(outputs, items, targets, torch.from_numpy(drawn), log_q)

    def _batches(self, data: loop.Split, generator: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
        """Yield (item rows + 1, target rows or -1), int64 [B, L] each, windows of like length together."""
        starts, lengths, fresh = windows(data.offsets[:-1], data.lengths, self.length, generator)
        order = np.lexsort((generator.random(len(starts)), lengths))
        batches = np.split(order, np.flatnonzero(np.diff(np.cumsum(lengths[order]) // self.batch_size)) + 1)
        for batch in generator.permutation(len(batches)):
            rows = batches[batch]
            if len(rows) == 0:
                continue
            column = np.arange(lengths[rows].max())
            inside = column < lengths[rows, None]
            at = np.where(inside, starts[rows, None] + column, 0)
            sequences = np.where(inside, data.items[at] + 1, 0)
            is_target = inside & (column >= fresh[rows, None])
            yield sequences, np.where(is_target, data.items[at + is_target], -1)

    def _represent(self, model: Transformer, data: loop.Split, users: Ints, lengths: Ints) -> npt.NDArray[np.float32]:
        """Return the output after the last of the first `lengths` items of each user, float32 [B, d]."""
        result = np.empty((len(users), self.dimension), dtype=np.float32)
        if not len(users):
            return result
        ends = data.offsets[users] + lengths[users]
        kept = np.minimum(lengths[users], self.length)
        order = np.argsort(kept, kind="stable")
        model.eval()
        with torch.no_grad():
            for rows in np.array_split(order, max(1, len(order) * self.length // 25_600)):
                column = np.arange(kept[rows].max())
                inside = column < kept[rows, None]
                at = np.where(inside, (ends - kept)[rows, None] + column, 0)
                outputs = model(torch.from_numpy(np.where(inside, data.items[at] + 1, 0)))
                result[rows] = outputs[torch.arange(len(rows)), torch.from_numpy(kept[rows] - 1)].numpy()
        return result


def windows(starts: Ints, lengths: Ints, size: int, generator: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Cut histories into windows of inputs that overlap by half; each target belongs to one window.

    Input position t of a history predicts item t + 1, so a history of n items has n - 1 inputs. The first
    window ends at a random phase, so that cuts move from epoch to epoch.

    Returns
    -------
    tuple of numpy.ndarray
        int64 [W] each: where the window begins, its length, and the first position in it that is a target;
        those before are context that an earlier window was trained on.
    """
    step = max(1, size // 2)
    inputs = np.maximum(lengths - 1, 0)
    first = np.where(inputs > size, size - generator.integers(0, step, len(inputs)), inputs)
    count = np.where(inputs > 0, 1 + -(-(inputs - first) // step), 0)
    owner = np.repeat(np.arange(len(inputs)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    ends = np.minimum(first[owner] + number * step, inputs[owner])
    begins = np.maximum(ends - size, 0)
    done = np.where(number > 0, first[owner] + (number - 1) * step, 0)
    return starts[owner] + begins, ends - begins, done - begins
