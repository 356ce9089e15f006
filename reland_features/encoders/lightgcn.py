"""Encode behaviour with LightGCN (He et al., SIGIR 2020), the paper's lightweight encoder of Eq. (1)."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reland_features.encoders import training as loop
from reland_features.encoders.base import BehaviorVectors
from reland_features.encoders.fold_in import FoldIn
from reland_features.interactions import Interactions

logger = logging.getLogger(__name__)


def adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> torch.Tensor:
    """Return D^-1/2 A D^-1/2 of the bipartite graph as sparse CSR, float32 [U + I, U + I].

    Repeated interactions are one edge; weights are not used (feedback is implicit). Users come first.
    """
    edges = np.unique(users * n_items + items)
    users, items = edges // n_items, edges % n_items + n_users
    size = n_users + n_items
    rows, columns = np.concatenate([users, items]), np.concatenate([items, users])
    degree = np.bincount(rows, minlength=size)
    values = 1.0 / np.sqrt(degree[rows] * degree[columns].astype(np.float64))
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(degree)])
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
    # 32-bit indices are what the fast sparse kernels take; they hold up to 2^31 edges
    return torch.sparse_csr_tensor(
        torch.from_numpy(starts.astype(np.int32)),
        torch.from_numpy(columns[order].astype(np.int32)),
        torch.from_numpy(values[order].astype(np.float32)),
        size=(size, size),
        check_invariants=False,
    )


class _Propagation(torch.autograd.Function):
    """Mean over layers of A^k E. A is symmetric, so the gradient is the same map of the gradient."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor, graph: torch.Tensor, layers: int) -> torch.Tensor:
        ctx.graph, ctx.layers = graph, layers
        return _mean_over_layers(embeddings, graph, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _mean_over_layers(gradients[0], ctx.graph, ctx.layers), None, None


def _mean_over_layers(embeddings: torch.Tensor, graph: torch.Tensor, layers: int) -> torch.Tensor:
    # Horner's scheme: E + A(E + A(E + ...))
    total = embeddings
    for _ in range(layers):
        total = torch.addmm(embeddings, graph, total)
    return total / (layers + 1)


def propagate(embeddings: torch.Tensor, graph: torch.Tensor, layers: int) -> torch.Tensor:
    """Return (1 / (K + 1)) sum over k = 0..K of A^k E, float32 [U + I, d], differentiable in E."""
    result: torch.Tensor = _Propagation.apply(embeddings, graph, layers)
    return result


def bpr_loss(
    final: torch.Tensor,
    initial: torch.Tensor,
    users: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    regularisation: float,
) -> torch.Tensor:
    """Return the mean of -ln sigmoid(e_u·e_i - e_u·e_j) + λ/2 (|e_u0|² + |e_i0|² + |e_j0|²).

    Parameters
    ----------
    final, initial : torch.Tensor
        Embeddings after and before propagation, [U + I, d]; only the initial ones are regularised.
    users, positives, negatives : torch.Tensor
        Row numbers in those, int64 [B]; item rows are shifted by U.
    regularisation : float
        λ.
    """
    # one gather per table: each gather's gradient is a dense table
    rows = torch.cat([users, positives, negatives])
    user, positive, negative = nn.functional.embedding(rows, final).chunk(3)
    ranking = nn.functional.softplus(-(user * (positive - negative)).sum(dim=1)).mean()
    squares = nn.functional.embedding(rows, initial).square().sum()
    return ranking + 0.5 * regularisation * squares / len(users)


@dataclass
class LightGCN:
    """Represent a user by a propagated embedding trained to rank what the user interacted with.

    Assumes that users who share items share tastes; order and time inside the window are not used,
    and it says little about users with one or two interactions.

    Training leaves out the held-out interactions; the returned vectors are the trained embeddings
    propagated over *all* interactions, so that every user's last behaviour counts.

    Parameters
    ----------
    dimension : int
        Width d of the vectors.
    seed : int
        Seeds initial weights, batches, negatives and the held-out sample. Vectors are equal bit by
        bit for the same seed, number of threads and machine type.
    layers : int
        Propagation layers K.
    batch_size : int
        Interactions per step; 0 makes about 64 steps an epoch, of 512 to 16,384 interactions. Every step
        propagates over the whole graph, so that small batches of a large table are slow.
    learning_rate, regularisation : float
        Adam's step and λ of the BPR loss.
    max_epochs, patience : int
        Early stopping on held-out NDCG@10.
    """

    dimension: int = 64
    seed: int = 0
    layers: int = 2
    batch_size: int = 0
    learning_rate: float = 1e-2
    regularisation: float = 1e-4
    max_epochs: int = 40
    patience: int = 5
    training: dict[str, Any] | None = dataclasses.field(default=None, init=False, repr=False)
    """How the last `encode` went: epochs, best_epoch, ndcg_at_10, recall_at_20."""
    fitted: FoldIn | None = dataclasses.field(default=None, init=False, repr=False)
    """What the last `encode` learnt."""

    def __post_init__(self) -> None:
        loop.check_options(
            "lightgcn",
            self,
            at_least={"layers": 0, "batch_size": 0, "max_epochs": 1, "patience": 1, "regularisation": 0.0},
            above_zero=("learning_rate",),
        )

    @property
    def encoder_id(self) -> str:
        """Name and every parameter that changes vectors."""
        return loop.encoder_id("lightgcn", self)

    def encode(self, interactions: Interactions, as_of: datetime) -> BehaviorVectors:
        """Fit on interactions at or before `as_of`; return propagated user vectors, float32 [U, d].

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
        pairs = data.training_pairs()
        graph = adjacency(*pairs, data.n_users, data.n_items)
        model = nn.Module()
        draws = torch.Generator().manual_seed(int(generator.integers(2**63)))
        weights = torch.empty(data.n_users + data.n_items, self.dimension)
        model.embeddings = nn.Parameter(nn.init.xavier_uniform_(weights, generator=draws))
        optimizer = torch.optim.Adam([model.embeddings], lr=self.learning_rate, fused=True)
        sampler = PairSampler(*pairs, data.n_users, data.n_items, draws)
        batch_size = self.batch_size or min(max(len(sampler) // 64, 512), 16_384)

        def run_epoch() -> float:
            total = 0.0
            for users, positives, negatives in sampler.batches(batch_size):
                final = propagate(model.embeddings, graph, self.layers)
                loss = bpr_loss(final, model.embeddings, users, positives, negatives, self.regularisation)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(users)
            return total / len(sampler)

        def scores() -> Any:
            users, items = propagate(model.embeddings, graph, self.layers).split([data.n_users, data.n_items])
            return lambda rows: users[torch.from_numpy(rows)] @ items.T

        result = loop.train(
            model, run_epoch, scores, data, max_epochs=self.max_epochs, patience=self.patience, where="lightgcn"
        )
        self.training = result.as_dict()
        full = adjacency(interactions.user_rows, interactions.item_rows, data.n_users, data.n_items)
        with torch.no_grad():
            vectors = propagate(model.embeddings, full, self.layers)[: data.n_users].numpy()
            self.fitted = self._fold_in(model.embeddings, full, interactions)
        logger.info("lightgcn %s, %.1f s", result, time.perf_counter() - started)
        return BehaviorVectors(interactions.user_ids, np.ascontiguousarray(vectors), self.encoder_id, as_of)

    def save(self, folder: Path) -> None:
        """Write what the last `encode` learnt."""
        if self.fitted is None:
            raise RuntimeError("nothing is encoded yet")
        self.fitted.save(folder)

    def transform(self, interactions: Interactions, as_of: datetime, fitted: Path) -> BehaviorVectors:
        """Fold behaviour at or before `as_of` into what `save` wrote: see `FoldIn`."""
        users, vectors = FoldIn.read(fitted, self.layers)(interactions.as_of(as_of))
        return BehaviorVectors(users, vectors, self.encoder_id, as_of)

    def _fold_in(self, embeddings: torch.Tensor, graph: torch.Tensor, interactions: Interactions) -> FoldIn:
        n_users = len(interactions.user_ids)
        items = torch.zeros(len(embeddings) - n_users, self.dimension)
        if self.layers:
            degrees = graph.crow_indices().diff()[n_users:, None]
            items = _mean_over_layers(embeddings, graph, self.layers - 1)[n_users:] * self.layers / degrees.sqrt()
        return FoldIn(
            interactions.user_ids,
            interactions.item_ids,
            embeddings[:n_users].numpy().copy(),
            items.numpy(),
            self.layers,
        )


class PairSampler:
    """Shuffle (user, item) pairs and draw one uniform negative item for each.

    A negative that the user has interacted with is drawn once more, not until it fits: with few
    items a user may have all of them.
    """

    def __init__(
        self, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, generator: torch.Generator
    ) -> None:
        self._users, self._items = torch.from_numpy(users), torch.from_numpy(items)
        self._keys = torch.from_numpy(np.unique(users * n_items + items))
        self._n_users, self._n_items, self._generator = n_users, n_items, generator

    def __len__(self) -> int:
        return len(self._users)

    def batches(self, size: int) -> Any:
        """Yield (users, positives, negatives), item rows shifted by the number of users."""
        order = torch.randperm(len(self), generator=self._generator)
        for rows in order.split(size):
            users = self._users[rows]
            negatives = self._draw(len(rows))
            keys = users * self._n_items + negatives
            at = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
            taken = self._keys[at] == keys
            negatives[taken] = self._draw(int(taken.sum()))
            yield users, self._items[rows] + self._n_users, negatives + self._n_users

    def _draw(self, count: int) -> torch.Tensor:
        return torch.randint(self._n_items, (count,), generator=self._generator)
