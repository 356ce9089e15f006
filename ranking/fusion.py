"""Fuse a user's vector with the user's rationale: the FusionLayer of Eq. (4), by attention as in Eq. (5).

Collaborative backbones fuse the user's ID embedding. Sequential ones have none, and the paper does not say
what is fused there: here it is the sequence output, at every position, with the rationale that the user's
training history was matched to.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ranking.compact_views import FeaturesError
from ranking.rationales import Rationales
from ranking.texts import ReadsTexts, UserTexts

Kind = Literal["attention", "concat", "gate"]


class Attention(nn.Module):
    """Eq. (5): [α1, α2] = softmax([e·W, z·W]), e' = α1 e + α2 z.

    W starts at zero, where both sides count the same.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.zeros(dimension))

    def forward(self, vectors: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return [n, d]."""
        difference = texts - vectors
        # A softmax over two is a sigmoid of their difference, and α1 = 1 - α2.
        return vectors + torch.sigmoid(difference @ self.attention)[:, None] * difference


class Concat(nn.Module):
    """e' = Linear([e; z]), which starts as e plus a small part of z."""

    def __init__(self, dimension: int, width: int | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension + (width or dimension), dimension)
        with torch.no_grad():
            self.linear.weight[:, :dimension] = torch.eye(dimension)
            self.linear.bias.zero_()

    def forward(self, vectors: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return [n, d]."""
        return self.linear(torch.cat([vectors, texts], dim=1))


class Gate(nn.Module):
    """g = sigmoid(Linear([e; z])), e' = g * e + (1 - g) * z, a gate per column."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dimension, dimension)

    def forward(self, vectors: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return [n, d]."""
        gate = torch.sigmoid(self.linear(torch.cat([vectors, texts], dim=1)))
        return texts + gate * (vectors - texts)


_KINDS = {"attention": Attention, "concat": Concat, "gate": Gate}


class FusionLayer(ReadsTexts):
    """Map user vectors e_u and user rows to e'_u, Eq. (4).

    z_u = Linear(TextEncoder(r_u)) is computed once per distinct rationale of a call. Where a user has no
    rationale, e'_u = e_u exactly. Text vectors are frozen, at mean zero and of length 1 in the quadratic
    mean (`TextScale`), which a state dict keeps: the weights can be loaded beside the rationales of another
    day, or of a few users, and say the same of a text.

    Parameters
    ----------
    dimension : int
        Width d of the user vectors.
    rationales : Rationales or None
        Of all users; None makes the layer an identity.
    kind : {"attention", "concat", "gate"}
        How e_u and z_u are combined; attention is the paper's.
    dropout : float
        Of z_u, in training.

    Raises
    ------
    FeaturesError
        There is no such kind; in `forward`, the vectors are not d wide; see `ReadsTexts`.
    """

    def __init__(
        self, dimension: int, rationales: Rationales | None, *, kind: Kind = "attention", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise FeaturesError("there is no such fusion", got=kind, expected=", ".join(_KINDS))
        self.dimension, self.kind = dimension, kind
        self.texts = None if rationales is None else UserTexts(rationales)
        if self.texts is not None:
            self.linear = nn.Linear(self.texts.width, dimension)
            self.dropout = nn.Dropout(dropout)
            self.combine = _KINDS[kind](dimension)

    def forward(self, vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return e'_u [n, d] from e_u [n, d] and user rows, int64 [n]; row -1 is a user without a rationale."""
        if self.texts is None:
            return vectors
        if vectors.shape != (len(rows), self.dimension):
            raise FeaturesError(
                "user vectors do not fit the fusion layer",
                got=tuple(vectors.shape),
                expected=(len(rows), self.dimension),
            )
        texts, has = self.texts(self.linear, rows)
        fused = self.combine(vectors, self.dropout(texts))
        return fused if has.all() else torch.where(has, fused, vectors)
