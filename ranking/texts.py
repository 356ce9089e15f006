"""Hold frozen text vectors as torch modules: each user's rationales, and each item's attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding, embedding_bag, pad

from ranking.compact_views import FeaturesError
from ranking.rationales import Rationales


@dataclass(frozen=True, eq=False)
class TextScale:
    """Move text vectors to mean zero and bring them to length 1 in the quadratic mean.

    One number scales all columns, so directions stay what the text encoder made them. Length 1 is small
    enough that a step of Adam moves a projected text about as far as an ID embedding.

    Parameters
    ----------
    mean : numpy.ndarray
        float32 [D].
    scale : float
        What is multiplied with.
    """

    mean: np.ndarray
    scale: float

    @classmethod
    def of(cls, vectors: np.ndarray) -> TextScale:
        """Measure float32 [n, D]. A single vector keeps its place: at mean zero it would say nothing."""
        values = vectors.astype(np.float64)
        mean = values.mean(axis=0) if len(values) > 1 else np.zeros(values.shape[1])
        length = float(np.sqrt(np.square(values - mean).sum(axis=1).mean())) if len(values) else 0.0
        return cls(mean.astype(np.float32), 1.0 / length if length > 1e-6 else 1.0)

    def __call__(self, vectors: np.ndarray) -> torch.Tensor:
        """Return float32 [n, D] as a tensor."""
        return torch.from_numpy(((vectors - self.mean) * self.scale).astype(np.float32))


class UserTexts(nn.Module):
    """Encode the rationales of some users: distinct texts once, then gathered by user.

    A batch names far more users (a sequential one: a user at every position) than there are distinct
    texts, so what is costly, the encoding of D numbers, runs over texts.

    Parameters
    ----------
    rationales : Rationales
        Frozen; buffers that a state dict does not carry.
    scale : TextScale, optional
        By default that of the rationales themselves.
    """

    table: torch.Tensor
    rows: torch.Tensor
    weights: torch.Tensor

    def __init__(self, rationales: Rationales, scale: TextScale | None = None) -> None:
        super().__init__()
        scale = scale or TextScale.of(rationales.embeddings)
        none = len(rationales.embeddings)  # the row after the last text, which reads as zeros
        rows = np.where(rationales.rows >= 0, rationales.rows, none).astype(np.int64)
        weights = np.where(rows < none, rationales.weights, 0.0).astype(np.float32)
        # One more user, last and without a text: row -1 is a stranger or padding.
        rows = np.pad(rows, ((0, 1), (0, 0)), constant_values=none)
        weights = np.pad(weights, ((0, 1), (0, 0)))
        self.register_buffer("table", scale(rationales.embeddings), persistent=False)
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    @property
    def width(self) -> int:
        """Numbers per text, D."""
        return int(self.table.shape[1])

    def forward(
        self, encode: Callable[[torch.Tensor], torch.Tensor], users: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return encoded texts and the mask.

        Parameters
        ----------
        encode : callable
            Texts [s, D] → [s, w].
        users : torch.Tensor
            int64 [n], rows of users; -1 is nobody.

        Returns
        -------
        tuple of torch.Tensor
            float32 [n, w], the weighted sum of the k encoded texts, zeros for a user without any, and
            bool [n, 1], who has one.
        """
        rows = self.rows[users]
        none = len(self.table)
        used = torch.zeros(none + 1, dtype=torch.bool, device=rows.device)
        used[rows] = True
        has = (rows < none).any(dim=1, keepdim=True)
        if used[:none].all():
            encoded = encode(self.table)
        else:
            encoded, rows = encode(self.table[used[:none]]), (used.cumsum(0) - used.long())[rows]
        encoded = pad(encoded, (0, 0, 0, 1))
        if rows.shape[1] == 1:
            return embedding(rows[:, 0], encoded), has
        return embedding_bag(rows, encoded, per_sample_weights=self.weights[users], mode="sum"), has


class ItemTexts(nn.Module):
    """The items' text vectors, scaled; zeros stay zeros.

    Parameters
    ----------
    item_text : numpy.ndarray
        float32 [I, D]; a row of zeros is an item without text.

    Raises
    ------
    FeaturesError
        A number is not finite, or no item has a text.
    """

    table: torch.Tensor
    has: torch.Tensor

    def __init__(self, item_text: np.ndarray) -> None:
        super().__init__()
        broken = int((~np.isfinite(item_text)).any(axis=1).sum())
        has = np.asarray(item_text.any(axis=1))
        if broken or not has.any():
            raise FeaturesError(
                "item texts cannot be used",
                got=f"of {len(item_text):,} items, {broken:,} hold NaN or infinity and {int(has.sum()):,} have a text",
                expected="finite vectors, zeros where an item has no text",
            )
        self.scale = TextScale.of(item_text[has])
        self.register_buffer("has", torch.from_numpy(has[:, None]), persistent=False)
        self.register_buffer("table", self.scale(item_text) * self.has, persistent=False)

    @property
    def width(self) -> int:
        """Numbers per text, D."""
        return int(self.table.shape[1])

    def check(self, vectors: torch.Tensor, wanted: int | None = None) -> None:
        """Raise FeaturesError unless there is one item vector per text, or as many as wanted."""
        wanted = len(self.table) if wanted is None else wanted
        if len(vectors) != wanted:
            raise FeaturesError(
                "item vectors and item texts differ in number", got=f"{len(vectors):,}", expected=f"{wanted:,}"
            )


def check_widths(rationales: Rationales, item_text: np.ndarray) -> None:
    """Raise FeaturesError unless rationales and item texts can be compared: as many numbers in both."""
    if rationales.embeddings.shape[1] != item_text.shape[1]:
        raise FeaturesError(
            "rationales and item texts were embedded by different text encoders",
            got=f"rationales of {rationales.embeddings.shape[1]} numbers",
            expected=f"{item_text.shape[1]}, as the items",
        )
