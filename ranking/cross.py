"""Let a user's rationale meet an item's text in the score: a second path beside Eq. (5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ranking.compact_views import FeaturesError
from ranking.rationales import Rationales
from ranking.texts import ItemTexts, ReadsTexts, UserTexts, check_widths

START = 0.1
_WIDTH = 32


class CrossPath(ReadsTexts):
    """Add s · (P r_u) · (P f_i) to the dot product, by appending s P r_u to users and P f_i to items.

    Eq. (5) gives a rationale to the user alone, where it can speak of an item only through what training
    taught the ID embeddings. Here both texts pass through one P and so are compared in one space; both are
    centred on the items, so that a constant rationale stays a control and does not vanish.

    P starts as the leading principal directions of the item texts, where the path is close to the cosine
    of the two texts, and s small. A user without a rationale, or an item without a text, gets zeros.

    Parameters
    ----------
    rationales : Rationales
        Of all users.
    item_text : numpy.ndarray
        float32 [I, D], by the same text encoder.
    width : int, optional
        Columns m that are appended, from 1 to D; 32 unless given, or D where that is less.

    Raises
    ------
    FeaturesError
        Rationales and item texts differ in width, or `width` is out of range.
    """

    def __init__(self, rationales: Rationales, item_text: np.ndarray, *, width: int | None = None) -> None:
        super().__init__()
        check_widths(rationales, item_text)
        most = item_text.shape[1]
        width = min(_WIDTH, most) if width is None else width
        if not 1 <= width <= most:
            raise FeaturesError(
                "a cross of texts cannot have so many columns", where="width", got=width, expected=f"1 to {most}"
            )
        self.item_texts = ItemTexts(item_text)
        self.user_texts = UserTexts(rationales, self.item_texts.text_scale)
        table = self.item_texts.table.double()
        directions = torch.linalg.eigh(table.T @ table).eigenvectors[:, -width:]
        self.project = nn.Linear(most, width, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(directions.T)
        self.scale = nn.Parameter(torch.tensor(START))

    def users(self, vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Map user vectors [n, d] of the user rows [n] to [n, d + m]."""
        texts, _ = self.user_texts(self.project, rows)
        return torch.cat([vectors, self.scale * texts], dim=1)

    def items(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map item vectors [I, d] to [I, d + m]."""
        self.item_texts.check(vectors)
        return torch.cat([vectors, self.project(self.item_texts.table)], dim=1)
