"""Train any encoder with early stopping: what LightGCN and SASRec share.

The held-out split is the last interaction of up to `VALIDATION_USERS` users. Everyone else keeps
all of theirs: the vectors are features, so behaviour is not thrown away to measure them.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reland_features.errors import ConfigError, TableError
from reland_features.interactions import Interactions

VALIDATION_USERS = 2000
_SCORES_PER_BLOCK = 1 << 24

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Interactions as row numbers, with some last interactions held out.

    Parameters
    ----------
    n_users, n_items : int
        Rows of the two vocabularies.
    offsets : numpy.ndarray
        int64 [U + 1]; user u owns ``items[offsets[u]:offsets[u + 1]]``.
    items : numpy.ndarray
        int64 [N], all interactions in user and time order.
    held_out : numpy.ndarray
        int64 [V], rows of the users whose last interaction is not trained on.
    """

    n_users: int
    n_items: int
    offsets: np.ndarray
    items: np.ndarray
    held_out: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The held-out items, int64 [V]."""
        return self.items[self.offsets[self.held_out + 1] - 1]

    @property
    def lengths(self) -> np.ndarray:
        """Training interactions of each user, int64 [U]."""
        lengths: np.ndarray = np.diff(self.offsets)
        lengths[self.held_out] -= 1
        return lengths

    def training_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (user rows, item rows) of the training interactions, int64 [N - V] each."""
        keep = np.ones(len(self.items), dtype=bool)
        keep[self.offsets[self.held_out + 1] - 1] = False
        users = np.repeat(np.arange(self.n_users), np.diff(self.offsets))
        return users[keep], self.items[keep]


def encoder_id(name: str, encoder: Any) -> str:
    """Name an encoder by every parameter it was constructed with, in the order of its fields."""
    parameters = ",".join(f"{f.name}={getattr(encoder, f.name)}" for f in dataclasses.fields(encoder) if f.init)
    return f"{name}({parameters})"


def check_options(
    name: str,
    encoder: Any,
    *,
    at_least: Mapping[str, float],
    above_zero: Sequence[str] = (),
    below_one: Sequence[str] = (),
) -> None:
    """Refuse options that are no numbers or outside their limits.

    Raises
    ------
    ConfigError
        Names the option, what it is and its limit.
    """
    whole = {field.name for field in dataclasses.fields(encoder) if field.type == "int"}
    for option in (*at_least, *above_zero, *below_one):
        value = getattr(encoder, option)
        number = "a whole number" if option in whole else "a number"
        fits = isinstance(value, int if option in whole else (int, float)) and not isinstance(value, bool)
        if option in at_least:
            fits, limit = fits and value >= at_least[option], f"at least {at_least[option]}"
        elif option in above_zero:
            fits, limit = fits and value > 0, "above 0"
        else:
            fits, limit = fits and 0 <= value < 1, "from 0 to below 1"
        if not fits:
            raise wrong_option(name, option, value, f"{number} {limit}")


def wrong_option(name: str, option: str, value: object, expected: str) -> ConfigError:
    """Return the error of an option of an encoder."""
    return ConfigError(
        f"encoder option {option!r} is wrong",
        where=f"encoder.options.{option} of {name}",
        got=repr(value),
        expected=expected,
        hint=f"--set encoder.options.{option}=VALUE",
    )


def split(interactions: Interactions, generator: np.random.Generator, minimum: int = 3) -> Split:
    """Hold out the last interaction of a sample of the users that have at least `minimum`.

    Raises
    ------
    TableError
        There are no interactions.
    """
    if len(interactions) == 0:
        raise TableError(
            "there is no behaviour to encode",
            where="encoder",
            got="0 interactions",
            expected="at least one interaction at or before as_of",
            hint="reland check",
        )
    eligible = np.flatnonzero(interactions.counts >= minimum)
    chosen = np.sort(generator.choice(eligible, min(VALIDATION_USERS, len(eligible)), replace=False))
    return Split(
        len(interactions.user_ids), len(interactions.item_ids), interactions.offsets, interactions.item_rows, chosen
    )


def held_out_ranks(scores: Callable[[np.ndarray], torch.Tensor], data: Split) -> np.ndarray:
    """Rank every held-out item among the items its user has not trained on.

    Parameters
    ----------
    scores : callable
        Maps user rows int64 [B] to scores of all items, float [B, I].

    Returns
    -------
    numpy.ndarray
        int64 [V], 0 is best. Counted, never sorted; ties count against the target, so that a model
        that scores everything alike does not look perfect.
    """
    lengths = data.lengths
    block = max(1, _SCORES_PER_BLOCK // data.n_items)
    ranks = []
    for start in range(0, len(data.held_out), block):
        users = data.held_out[start : start + block]
        table = scores(users).clone()
        target = torch.from_numpy(data.targets[start : start + block])[:, None]
        wanted = table.gather(1, target)
        rows = np.repeat(np.arange(len(users)), lengths[users])
        seen = np.concatenate([data.items[data.offsets[u] : data.offsets[u] + lengths[u]] for u in users])
        table[torch.from_numpy(rows), torch.from_numpy(seen)] = -torch.inf
        table.scatter_(1, target, -torch.inf)
        ranks.append((table >= wanted).sum(dim=1).numpy())
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def ndcg(ranks: np.ndarray, k: int = 10) -> float:
    """Return NDCG@k of one relevant item per user, ranks from 0."""
    return float(np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0).mean())


def recall(ranks: np.ndarray, k: int = 20) -> float:
    """Return Recall@k (= HR@k) of one relevant item per user, ranks from 0."""
    return float((ranks < k).mean())


@dataclass(frozen=True)
class Training:
    """How training went: epochs run, the best one (1-based) and its held-out NDCG@10 and Recall@20."""

    epochs: int
    best_epoch: int
    ndcg_at_10: float
    recall_at_20: float

    def as_dict(self) -> dict[str, float | None]:
        """Return JSON-able values; metrics are None where no user could be held out."""
        return {key: None if value != value else value for key, value in dataclasses.asdict(self).items()}


def train(
    module: torch.nn.Module,
    run_epoch: Callable[[], float],
    scores: Callable[[], Callable[[np.ndarray], torch.Tensor]],
    data: Split,
    *,
    max_epochs: int,
    patience: int,
    where: str,
) -> Training:
    """Run epochs until held-out NDCG@10 has not improved for `patience` epochs; keep the best weights.

    Without a user to hold out there is nothing to stop by: `patience` epochs are run.

    Parameters
    ----------
    module : torch.nn.Module
        Its weights are set to the best epoch's on return.
    run_epoch : callable
        Trains one epoch and returns its mean loss.
    scores : callable
        Called once per epoch; returns what `held_out_ranks` needs.
    where : str
        Name of the encoder, for messages.

    Raises
    ------
    ConfigError
        The loss is not finite.
    """
    best = Training(0, 0, -1.0, -1.0)
    weights = copy.deepcopy(module.state_dict())
    measurable = len(data.held_out) > 0
    epoch = 0
    for epoch in range(1, (max_epochs if measurable else min(max_epochs, patience)) + 1):
        module.train()
        loss = run_epoch()
        if not np.isfinite(loss):
            raise ConfigError(
                "training diverged",
                where=f"encoder {where}, epoch {epoch}",
                got=f"loss {loss}",
                expected="a finite loss",
                hint="lower encoder.options.learning_rate",
            )
        if not measurable:
            continue
        module.eval()
        with torch.no_grad():
            ranks = held_out_ranks(scores(), data)
        now = Training(epoch, epoch, ndcg(ranks), recall(ranks))
        logger.debug("%s epoch %d loss %.4f NDCG@10 %.4f Recall@20 %.4f", where, epoch, loss, *_metrics(now))
        if now.ndcg_at_10 > best.ndcg_at_10:
            best, weights = now, copy.deepcopy(module.state_dict())
        elif epoch - best.best_epoch >= patience:
            break
    module.eval()
    if not measurable:
        return Training(epoch, epoch, float("nan"), float("nan"))
    module.load_state_dict(weights)
    return Training(epoch, best.best_epoch, *_metrics(best))


def _metrics(training: Training) -> tuple[float, float]:
    return training.ndcg_at_10, training.recall_at_20
