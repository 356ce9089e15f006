"""Hold frozen text vectors as torch modules: each user's rationales, and each item's attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

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


class ScaledTexts(nn.Module):
    """A table of frozen texts, and the mean and scale that they were brought to in training.

    The mean and the scale are weights: they are measured when the module is made, and a state dict brings
    those of training, whatever texts are there then. Another day's rationales, or those of a few users, have
    another mean, and the same text would be another vector. The texts themselves are in no state dict.

    Parameters
    ----------
    texts : numpy.ndarray
        float32 [n, D].
    scale : TextScale
        Of these texts, or of others that they are to be compared with.
    """

    table: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, texts: np.ndarray, scale: TextScale) -> None:
        super().__init__()
        self._texts = texts
        self.register_buffer("mean", torch.from_numpy(scale.mean.copy()))
        self.register_buffer("scale", torch.tensor(scale.scale, dtype=torch.float32))
        self.register_buffer("table", self._scaled(), persistent=False)

    @property
    def width(self) -> int:
        """Numbers per text, D."""
        return int(self.table.shape[1])

    @property
    def text_scale(self) -> TextScale:
        """The mean and the scale of training."""
        return TextScale(self.mean.float().cpu().numpy(), float(self.scale))

    def _scaled(self) -> torch.Tensor:
        """Return the table, float32 [n, D]."""
        return self.text_scale(self._texts)

    def _load_from_state_dict(self, *given: Any) -> None:
        """Take the mean and the scale of training, and scale the texts by them."""
        super()._load_from_state_dict(*given)
        self.table = self._scaled().to(self.mean.device, self.table.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the module; mean and scale stay float32, or a model in half precision would save rounded ones."""
        mean, scale = self.mean, self.scale
        super()._apply(fn, recurse)
        if self.mean.dtype != torch.float32:
            self.mean, self.scale = mean.to(self.mean.device), scale.to(self.scale.device)
        return self


def linear_from_zero(width: int, dimension: int) -> nn.Linear:
    """Return W h + b, [n, width] → [n, dimension], that starts at zero: a vector it is added to starts as it is."""
    layer = nn.Linear(width, dimension)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ReadsTexts(nn.Module):
    """A module with weights that read texts, which are worth nothing where the texts are scaled otherwise.

    Raises
    ------
    FeaturesError
        In `load_state_dict`: there are such weights, and no mean and scale of its texts. Where there are none at
        all, as in a model that was trained without texts, it is for torch's ``strict`` to say.
    """

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        texts = [name for name, module in self.named_children() if isinstance(module, ScaledTexts)]
        wanted = [f"{prefix}{name}.{own}" for name in texts for own in ("mean", "scale")]
        absent = [name for name in wanted if name not in state_dict]
        if absent and any(name.startswith(prefix) for name in state_dict):
            raise FeaturesError(
                "the weights do not say how the texts that they were trained with were scaled",
                where=f"load_state_dict, {type(self).__name__}",
                got=f"no {', no '.join(absent)}",
                hint="train again",
            )
        super()._load_from_state_dict(state_dict, prefix, *more)


class UserTexts(ScaledTexts):
    """Encode the rationales of some users: distinct texts once, then gathered by user.

    A batch names far more users (a sequential one: a user at every position) than there are distinct
    texts, so what is costly, the encoding of D numbers, runs over texts.

    Parameters
    ----------
    rationales : Rationales
        Frozen; a state dict carries their mean and scale only.
    scale : TextScale, optional
        By default that of the rationales themselves.
    """

    rows: torch.Tensor
    weights: torch.Tensor

    def __init__(self, rationales: Rationales, scale: TextScale | None = None) -> None:
        super().__init__(rationales.embeddings, scale or TextScale.of(rationales.embeddings))
        none = len(rationales.embeddings)  # the row after the last text, which reads as zeros
        rows = np.where(rationales.rows >= 0, rationales.rows, none).astype(np.int64)
        weights = np.where(rows < none, rationales.weights, 0.0).astype(np.float32)
        # One more user, last and without a text: row -1 is a stranger or padding.
        rows = np.pad(rows, ((0, 1), (0, 0)), constant_values=none)
        weights = np.pad(weights, ((0, 1), (0, 0)))
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    def forward(
        self, encode: Callable[[torch.Tensor], torch.Tensor], users: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return encoded texts and the mask.

        Parameters
        ----------
        encode : callable
            Texts [s, D] → [s, w].
        users : torch.Tensor
            int64 [n], rows of the U users; -1 is nobody.

        Returns
        -------
        tuple of torch.Tensor
            float32 [n, w], the weighted sum of the k encoded texts, zeros for a user without any, and
            bool [n, 1], who has one.

        Raises
        ------
        FeaturesError
            A row is below -1, or U and above: it would read another user's text, or nobody's.
        """
        self._check_rows(users)
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
        # In mixed precision what is encoded is of half the width that the buffers have.
        weights = self.weights[users].to(encoded.dtype)
        return embedding_bag(rows, encoded, per_sample_weights=weights, mode="sum"), has

    def _check_rows(self, users: torch.Tensor) -> None:
        known = len(self.rows) - 1
        lowest, highest = torch.stack(torch.aminmax(users)).tolist() if len(users) else (-1, -1)
        if lowest < -1 or highest >= known:
            raise FeaturesError(
                "user rows point outside the rationales",
                got=f"rows from {lowest} to {highest}",
                expected=f"rows from -1, which is nobody, to {known - 1}",
            )


class ItemTexts(ScaledTexts):
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

    has: torch.Tensor

    def __init__(self, item_text: np.ndarray) -> None:
        broken = int((~np.isfinite(item_text)).any(axis=1).sum())
        has = np.asarray(item_text.any(axis=1))
        if broken or not has.any():
            raise FeaturesError(
                "item texts cannot be used",
                got=f"of {len(item_text):,} items, {broken:,} hold NaN or infinity and {int(has.sum()):,} have a text",
                expected="finite vectors, zeros where an item has no text",
            )
        super().__init__(item_text, TextScale.of(item_text[has]))
        self.register_buffer("has", torch.from_numpy(has[:, None]), persistent=False)

    def _scaled(self) -> torch.Tensor:
        """Return the table, float32 [I, D]."""
        return super()._scaled() * torch.from_numpy(self._texts.any(axis=1, keepdims=True))

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
