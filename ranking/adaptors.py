"""Give a dot product what other LLM-enhanced methods give it: KAR's adaptor, and a SLIM-style one.

Both are made from the methods' descriptions and take the texts that are at hand: x_p, what an LLM said of
the user, and x_f, what is said of the item. Theirs need an LLM call for every user and item (KAR) or every
interaction (SLIM).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ranking.rationales import Rationales
from ranking.texts import ItemTexts, ReadsTexts, UserTexts, check_widths, linear_from_zero


class AdditiveText(nn.Module):
    """e' = Linear([e; h]), with e's part held at the identity and h's starting at zero: e + W h + b, at first e.

    As in `ranking.sides.ItemFeatures`, for the same reason: a step of e's part moves all users, or items, at once.
    """

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.text = linear_from_zero(width, dimension)

    def forward(self, vectors: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Map vectors [n, d] and encoded texts [n, width] to [n, d]."""
        return vectors + self.text(texts)


class TextAdaptor(ReadsTexts):
    """u' = Linear([e_u; h_p]), v' = Linear([e_i; h_f]), with h an encoding of a frozen text vector; see `AdditiveText`.

    Without a text, h is zero.

    Parameters
    ----------
    dimension : int
        Width d of the vectors on both sides, before and after.
    rationales : Rationales
        x_p of all users.
    item_text : numpy.ndarray
        float32 [I, D], x_f.
    encode_users, encode_items : torch.nn.Module
        [n, D] → [n, width].
    width : int
        Width of h.
    """

    def __init__(
        self,
        dimension: int,
        rationales: Rationales,
        item_text: np.ndarray,
        encode_users: nn.Module,
        encode_items: nn.Module,
        width: int,
    ) -> None:
        super().__init__()
        self.user_texts, self.item_texts = UserTexts(rationales), ItemTexts(item_text)
        self.encode_users, self.encode_items = encode_users, encode_items
        self.mix_users, self.mix_items = AdditiveText(dimension, width), AdditiveText(dimension, width)

    def users(self, vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Map user vectors [n, d] of the user rows [n] to [n, d]."""
        texts, _ = self.user_texts(self.encode_users, rows)
        return self.mix_users(vectors, texts)

    def items(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map item vectors [I, d] to [I, d]."""
        self.item_texts.check(vectors)
        return self.mix_items(vectors, self.encode_items(self.item_texts.table) * self.item_texts.has)


class Experts(nn.Module):
    """Some MLPs D → hidden → width, with ReLU and dropout after each layer, run as one."""

    def __init__(self, count: int, dimension: int, hidden: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(dimension, count * hidden)
        self.weight = nn.Parameter(torch.empty(count, hidden, width).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.bias = nn.Parameter(torch.zeros(count, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        """Map [n, D] to [n, count, width]."""
        count, hidden, _ = self.weight.shape
        first = self.dropout(torch.relu(self.first(texts))).view(-1, count, hidden)
        second = torch.einsum("neh,ehw->new", first, self.weight) + self.bias
        return self.dropout(torch.relu(second))


class HybridExperts(nn.Module):
    """KAR's hybrid-expert adaptor of one side: h = Σ_e softmax(Linear(x))_e expert_e(x).

    Parameters
    ----------
    shared : Experts
        The experts that both sides have in common; they come first in the gate.
    own : Experts
        The experts of this side.
    """

    def __init__(self, shared: Experts, own: Experts) -> None:
        super().__init__()
        self.shared, self.own = shared, own
        self.gate = nn.Linear(own.first.in_features, len(shared.weight) + len(own.weight))

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        """Map [n, D] to [n, width]."""
        experts = torch.cat([self.shared(texts), self.own(texts)], dim=1)
        return torch.einsum("ne,new->nw", torch.softmax(self.gate(texts), dim=1), experts)


def kar(
    dimension: int,
    rationales: Rationales,
    item_text: np.ndarray,
    *,
    shared: int = 2,
    specific: int = 6,
    hidden: int = 128,
    width: int = 32,
    dropout: float = 0.1,
) -> TextAdaptor:
    """Make KAR's adaptor: 2 experts for both sides, 6 for each, MLPs D → 128 → 32.

    Where the whole catalogue is scored, every item passes through 8 experts in every step: 0.43 million
    multiplications an item with the defaults and 384 numbers a text.

    Raises
    ------
    FeaturesError
        Rationales and item texts differ in width: the shared experts read both.
    """
    check_widths(rationales, item_text)
    common = Experts(shared, item_text.shape[1], hidden, width, dropout)
    users, items = (
        HybridExperts(common, Experts(specific, item_text.shape[1], hidden, width, dropout)) for _ in range(2)
    )
    return TextAdaptor(dimension, rationales, item_text, users, items, width)


def slim(dimension: int, rationales: Rationales, item_text: np.ndarray) -> TextAdaptor:
    """Make a SLIM-style adaptor: each text is projected and concatenated with the ID or sequence vector.

    The texts are one per user, where SLIM has one per interaction.
    """
    users = nn.Linear(rationales.embeddings.shape[1], dimension)
    return TextAdaptor(dimension, rationales, item_text, users, nn.Linear(item_text.shape[1], dimension), dimension)
