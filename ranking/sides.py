"""Say how features come into a backbone: which modules stand on its item side, its user side and its output."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ranking.adaptors import kar, slim
from ranking.backbones.base import First, SameOutput
from ranking.compact_views import FeaturesError
from ranking.cross import CrossPath
from ranking.fusion import FusionLayer, Kind
from ranking.rationales import Rationales
from ranking.splits import Split
from ranking.texts import ItemTexts, ReadsTexts, linear_from_zero

Output = Literal["none", "cross", "kar", "slim"]


class FeatureSides:
    """The features of a split, as `ranking.backbones.base.Sides`.

    Parameters
    ----------
    item_text : numpy.ndarray or None
        float32 [I, D], from `RankerFeatures`.
    rationales : Rationales or None
        Of the split's users, or of its interactions where `by_event`.
    fusion : {"attention", "concat", "gate", "none"}
        How the FusionLayer of Eq. (4) combines; "none" leaves user vectors alone.
    output : {"none", "cross", "kar", "slim"}
        What reads rationales and item texts just before the dot product; see `CrossPath`, `kar`, `slim`.
    on_items : bool
        Whether item embeddings carry the text (`+ f_item`); False where only the output reads it.
    dropout : float
        Of the projected rationale in the FusionLayer.
    cross_width : int, optional
        Columns that "cross" appends; see `CrossPath`.
    by_event : bool
        Whether there is a rationale for every interaction (`ranking.point_in_time`), which only sequential
        backbones can read.

    Raises
    ------
    FeaturesError
        There is no such output, or it reads rationales or item texts that are not there.
    """

    def __init__(
        self,
        item_text: np.ndarray | None,
        rationales: Rationales | None,
        *,
        fusion: Kind | Literal["none"] = "attention",
        output: Output = "none",
        on_items: bool = True,
        dropout: float = 0.0,
        cross_width: int | None = None,
        by_event: bool = False,
    ) -> None:
        if output not in get_args(Output):
            raise FeaturesError("there is no such output", got=output, expected=", ".join(get_args(Output)))
        absent = [name for name, given in (("item_text", item_text), ("rationales", rationales)) if given is None]
        if output != "none" and absent:
            raise FeaturesError(
                "this output reads both rationales and item texts",
                where=f"output = {output!r}",
                got=f"no {' and no '.join(absent)}",
                hint="pass on_items=False where item texts are for the output alone",
            )
        self._item_text, self._rationales = item_text, rationales
        self._fusion, self._output, self._on_items = fusion, output, on_items
        self._dropout, self._cross_width = dropout, cross_width
        self.by_event = by_event

    def check(self, split: Split) -> None:
        """Raise FeaturesError unless the features are of as many users and items as the split has.

        Where `by_event`, rationales are of as many interactions.
        """
        rows = ("interactions", len(split.items)) if self.by_event else ("users", split.n_users)
        found = [(f"rationales of {rows[0]}", rows[1], self._rationales and self._rationales.n_users)]
        found.append(("item texts", split.n_items, None if self._item_text is None else len(self._item_text)))
        wrong = [(name, wanted, got) for name, wanted, got in found if got not in (None, wanted)]
        if wrong:
            raise FeaturesError(
                "the features are not those of the split",
                got=", ".join(f"{got:,} {name}" for name, _, got in wrong),
                expected=", ".join(f"{wanted:,} {name}" for name, wanted, _ in wrong),
                hint="read them with load_features(project, split)"
                + (", or rationales_at_events for the split as it is cut" if self.by_event else ""),
            )

    def items(self, dimension: int) -> nn.Module:
        """Return a module: (item ID embeddings [n, d], item rows int64 [n], or none for all) → [n, d]."""
        if self._item_text is None or not self._on_items:
            return First()
        return ItemFeatures(dimension, self._item_text)

    def users(self, dimension: int) -> nn.Module:
        """Return a module: (user vectors [n, d], user rows int64 [n]) → [n, d]."""
        if self._rationales is None or self._fusion == "none":
            return First()
        return FusionLayer(dimension, self._rationales, kind=self._fusion, dropout=self._dropout)

    def output(self, dimension: int) -> nn.Module:
        """Return a module with the two methods of `OutputSide`."""
        if self._output == "none" or self._rationales is None or self._item_text is None:
            return SameOutput()
        if self._output == "cross":
            return CrossPath(self._rationales, self._item_text, width=self._cross_width)
        return (kar if self._output == "kar" else slim)(dimension, self._rationales, self._item_text)


class ItemFeatures(ReadsTexts):
    """`+ f_item`: Linear([e_i; f_i]), the item ID embedding concatenated with the encoded text, back to d.

    W_e e_i + W_f f_i with W_e the identity: e_i is free, so another W_e is only another table of e_i. To learn
    both made things worse (LightGCN on Beauty, 30 epochs: validation NDCG@10 .0283 with W_e, .0339 without),
    because every step of W_e moves all items at once. W_f starts at zero: as the ID embedding alone.

    Parameters
    ----------
    dimension : int
        d.
    item_text : numpy.ndarray
        float32 [I, D].
    """

    def __init__(self, dimension: int, item_text: np.ndarray) -> None:
        super().__init__()
        self.texts = ItemTexts(item_text)
        self.text = linear_from_zero(self.texts.width, dimension)

    def forward(self, vectors: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Map item ID embeddings [n, d] of item rows [n], or of all items, to item embeddings [n, d]."""
        texts = self.texts.table if rows is None else functional.embedding(rows, self.texts.table)
        self.texts.check(vectors, len(texts))
        return vectors + self.text(texts)
