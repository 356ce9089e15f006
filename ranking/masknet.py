"""MaskNet (Wang et al. 2021), the click ranker of the paper's section 5, with rationales as further fields.

Every field is embedded in k numbers. A mask computed from all fields together multiplies what a layer
reads, so that products of fields, such as those of a rationale and an item, are one layer deep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ranking.setting_limits import check_limits
from reland_features.errors import ConfigError

UNKNOWN = 0
"""Row of every embedding table for values that were not there in training."""
PADDING = -1
"""Fills lists, such as a short history, up to the length of the longest."""


@dataclass(frozen=True)
class MaskNetSettings:
    """The shape of the network.

    Parameters
    ----------
    kind : {"parallel", "serial"}
        Blocks side by side on the field embeddings, or each on the output of the one before.
    rationales : bool
        Whether the rationale's fields are there.
    dimension : int
        k, numbers per field.
    blocks, width : int
        How many mask blocks, and how many numbers each gives.
    reduction : float
        Width of the mask's hidden layer over the width of the mask (the paper's reduction ratio).
    hidden : int
        Width of the layer after parallel blocks.
    dropout : float
        After each block.
    unknown_rate : float
        Share of values that training replaces by the unknown row, or by the missing mask for rationales,
        so that both are learnt even where the training rows hold neither.

    Raises
    ------
    ConfigError
        There is no such kind, or a number is out of range.
    """

    kind: Literal["parallel", "serial"] = "parallel"
    rationales: bool = True
    dimension: int = 10
    blocks: int = 3
    width: int = 64
    reduction: float = 2.0
    hidden: int = 64
    dropout: float = 0.1
    unknown_rate: float = 0.01

    def __post_init__(self) -> None:
        """Raise ConfigError for a shape that no network has."""
        if self.kind not in ("parallel", "serial"):
            raise ConfigError("no such kind", where="masknet.kind", got=self.kind, expected="parallel or serial")
        check_limits(
            vars(self),
            "masknet",
            above_zero=("reduction",),
            shares=("dropout", "unknown_rate"),
            counts=("dimension", "blocks", "width", "hidden"),
        )


@dataclass(frozen=True)
class FieldSizes:
    """Rows of each embedding table, the unknown row included, and the width of the text embeddings.

    Parameters
    ----------
    profiles : tuple of int
        One table per column of the user profile.
    """

    profiles: tuple[int, ...]
    activity: int
    user_count: int
    items: int
    brands: int
    categories: int
    item_count: int
    clusters: int
    text: int


@dataclass(frozen=True)
class UserTable:
    """Encoded users, one row each.

    Parameters
    ----------
    profile : torch.Tensor
        int64 [U, P].
    activity, count, cluster : torch.Tensor
        int64 [U].
    history : torch.Tensor
        int64 [U, L], item rows, padded with `PADDING`.
    rationales : torch.Tensor
        float32 [S, D], one row per seed user's rationale; with several seeds a user, one per mixture of them.
    seed : torch.Tensor
        int64 [U], row of `rationales`; -1 is no rationale.
    similarity : torch.Tensor
        float32 [U], 0 where there is no rationale.
    """

    profile: torch.Tensor
    activity: torch.Tensor
    count: torch.Tensor
    history: torch.Tensor
    rationales: torch.Tensor
    seed: torch.Tensor
    similarity: torch.Tensor
    cluster: torch.Tensor


@dataclass(frozen=True)
class ItemTable:
    """Encoded items, one row each.

    Parameters
    ----------
    item, brand, count : torch.Tensor
        int64 [I]; `item` is the row in the model's item table.
    categories : torch.Tensor
        int64 [I, C], padded with `PADDING`.
    text : torch.Tensor
        float32 [I, D], zeros where there is no text.
    """

    item: torch.Tensor
    brand: torch.Tensor
    count: torch.Tensor
    categories: torch.Tensor
    text: torch.Tensor


class MaskBlock(nn.Module):
    """ReLU(LN(W(mask ⊙ hidden))), mask = W2·ReLU(W1·context): instance-guided.

    Parameters
    ----------
    context, inputs, outputs : int
        Widths of what the mask is made from, of what it multiplies, and of the result.
    reduction : float
        The mask's hidden layer has ``reduction · inputs`` numbers.
    """

    def __init__(self, context: int, inputs: int, outputs: int, reduction: float = 2.0) -> None:
        super().__init__()
        between = max(1, round(reduction * inputs))
        self.mask = nn.Sequential(nn.Linear(context, between), nn.ReLU(), nn.Linear(between, inputs))
        self.project = nn.Linear(inputs, outputs, bias=False)  # the norm has a bias
        self.norm = nn.LayerNorm(outputs)

    def forward(self, context: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Map context [n, context] and hidden [n, inputs] to [n, outputs]."""
        return torch.relu(self.norm(self.project(self.mask(context) * hidden)))


class MaskBlocks(nn.Module):
    """Serial or parallel mask blocks over fields, and the logit.

    Parameters
    ----------
    fields : int
        F, how many fields there are.
    settings : MaskNetSettings
        Shape.
    """

    def __init__(self, fields: int, settings: MaskNetSettings) -> None:
        super().__init__()
        flat = fields * settings.dimension
        self.serial = settings.kind == "serial"
        # LN-EMB: every field has a norm of its own.
        self.gain = nn.Parameter(torch.ones(fields, settings.dimension))
        self.bias = nn.Parameter(torch.zeros(fields, settings.dimension))
        inputs = [settings.width if self.serial and number else flat for number in range(settings.blocks)]
        self.blocks = nn.ModuleList(MaskBlock(flat, n, settings.width, settings.reduction) for n in inputs)
        self.dropout = nn.Dropout(settings.dropout)
        joined = settings.width * settings.blocks
        self.head = (
            nn.Linear(settings.width, 1)
            if self.serial
            else nn.Sequential(nn.Linear(joined, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, 1))
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map field embeddings V_emb [n, F, k] to logits [n]."""
        context = embeddings.flatten(1)
        normed = functional.layer_norm(embeddings, embeddings.shape[-1:]) * self.gain + self.bias
        hidden = normed.flatten(1)
        if not self.serial:
            outputs = [self.dropout(block(context, hidden)) for block in self.blocks]
            return self.head(torch.cat(outputs, dim=1)).squeeze(1)
        for block in self.blocks:
            hidden = self.dropout(block(context, hidden))
        return self.head(hidden).squeeze(1)


class MaskNet(nn.Module):
    """Scores users × items by profiles, behaviour and, unless switched off, rationales.

    Parameters
    ----------
    sizes : FieldSizes
        Of the embedding tables.
    settings : MaskNetSettings
        Shape.
    """

    def __init__(self, sizes: FieldSizes, settings: MaskNetSettings) -> None:
        super().__init__()
        self.settings = settings
        k = settings.dimension
        self.profiles = nn.ModuleList(_table(size, k) for size in sizes.profiles)
        self.activity, self.user_count = _table(sizes.activity, k), _table(sizes.user_count, k)
        self.items, self.brands = _table(sizes.items, k), _table(sizes.brands, k)
        self.categories, self.item_count = _table(sizes.categories, k), _table(sizes.item_count, k)
        self.no_history, self.no_category = _vectors(1, k), _vectors(1, k)
        fields = len(sizes.profiles) + 7
        if settings.rationales:
            self.rationale, self.clusters = nn.Linear(sizes.text, k), _table(sizes.clusters, k)
            self.similarity, self.cosine = nn.Linear(1, k), nn.Linear(1, k)
            self.missing = _vectors(4, k)
            fields += 4
        self.network = MaskBlocks(fields, settings)

    def forward(self, users: UserTable, items: ItemTable, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return the logits of user rows [n] with item rows [n], float32 [n]."""
        target = self._embed(self.items, items.item[item])
        fields = [self._embed(table, users.profile[user, n]) for n, table in enumerate(self.profiles)]
        fields += [
            self._embed(self.activity, users.activity[user]),
            self._embed(self.user_count, users.count[user]),
            self._attended(target, users.history[user]),
            target,
            self._embed(self.brands, items.brand[item]),
            self._mean(items.categories[item]),
            self._embed(self.item_count, items.count[item]),
        ]
        if self.settings.rationales:
            fields += self._rationale_fields(users, items, user, item)
        return self.network(torch.stack(fields, dim=1))

    def _rationale_fields(
        self, users: UserTable, items: ItemTable, user: torch.Tensor, item: torch.Tensor
    ) -> list[torch.Tensor]:
        seed = users.seed[user]
        there = seed >= 0
        if self.training:
            there = there & (torch.rand(len(seed), device=seed.device) >= self.settings.unknown_rate)
        text = items.text[item]
        # A pool without rows cannot be indexed, not even by rows that the mask then hides.
        rationale = users.rationales[seed.clamp(min=0)] if len(users.rationales) else torch.zeros_like(text)
        cosine = functional.cosine_similarity(rationale, text, dim=1)
        embedded = [
            self.rationale(rationale),
            self.similarity(users.similarity[user, None]),
            self.cosine(cosine[:, None]),
            self._embed(self.clusters, users.cluster[user]),
        ]
        return [torch.where(there[:, None], e, missing) for e, missing in zip(embedded, self.missing, strict=True)]

    def _embed(self, table: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        if self.training:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) < self.settings.unknown_rate, UNKNOWN)
        return table(rows)

    def _attended(self, target: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Pool the history [n, L] by attention of the target [n, k]; without one it is `no_history`."""
        values = self._embed(self.items, history.clamp(min=0))
        # The learnt vector is one more position of every history, so that none is empty.
        values = torch.cat([self.no_history.expand(len(history), 1, -1), values], dim=1)
        weight = torch.einsum("nk,nlk->nl", target, values) / target.shape[1] ** 0.5
        weight = weight.masked_fill(functional.pad(history == PADDING, (1, 0)), -torch.inf)
        return torch.einsum("nl,nlk->nk", weight.softmax(1), values)

    def _mean(self, categories: torch.Tensor) -> torch.Tensor:
        """Return the mean embedding of the categories [n, C]; without one it is `no_category`."""
        there = (categories != PADDING)[..., None]
        count = there.sum(1)
        total = (self._embed(self.categories, categories.clamp(min=0)) * there).sum(1)
        return torch.where(count > 0, total / count.clamp(min=1), self.no_category)


def _table(rows: int, dimension: int) -> nn.Embedding:
    table = nn.Embedding(rows, dimension)
    nn.init.normal_(table.weight, std=0.05)
    return table


def _vectors(count: int, dimension: int) -> nn.Parameter:
    return nn.Parameter(0.05 * torch.randn(count, dimension))
