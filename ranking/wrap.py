"""Put rationales into a ranker that knows nothing of them: any torch module with an embedding of its users."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from ranking.fusion import FusionLayer, Kind
from ranking.rationales import Rationales
from reland_features.errors import RelandError


class WrapError(RelandError):
    """A model has no user embedding of the kind that rationales can be fused with."""


def wrap(
    model: nn.Module,
    rationales: Rationales,
    *,
    user_embedding: str = "user_embedding",
    fusion: Kind = "attention",
    dropout: float = 0.0,
    first_row: int = 0,
    reads: Literal["rows", "table"] = "rows",
) -> nn.Module:
    """Fuse the rationales with the user embedding of a model, Eq. (5), wherever the model looks a user up.

    The model itself is changed and returned; its call signature stays. Wrap before making the optimizer,
    which must see the new weights, and after loading weights saved without rationales.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.
    rationales : Rationales
        In the order of the model's users.
    user_embedding : str
        Its `torch.nn.Embedding` of users; a dotted path such as ``towers.user.embedding`` leads into it.
    fusion : {"attention", "concat", "gate"}
        See `FusionLayer`.
    dropout : float
        Of the projected rationale, in training.
    first_row : int
        Row of the first user: 1 where row 0 is padding. Rows before it are never fused.
    reads : {"rows", "table"}
        How the model reads its users. "rows": it calls the embedding with user rows, and ``weight`` stays
        the ID embedding without rationales. "table": it reads ``weight`` as a whole, as graph models
        (LightGCN, NGCF) do; then ``weight`` itself is fused, for all users at every access.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    WrapError
        There is no such attribute, it is no embedding or wrapped already, or its rows are not the users.
    """
    parent, _, name = user_embedding.rpartition(".")
    embedding = _find(model, user_embedding)
    users = embedding.num_embeddings - first_row
    if users != rationales.n_users:
        padded = first_row == 0 and users == rationales.n_users + 1
        raise WrapError(
            "the embedding has another number of users than there are rationales for",
            where=f"{type(model).__name__}.{user_embedding}",
            got=f"{embedding.num_embeddings:,} rows, users from row {first_row}",
            expected=f"{rationales.n_users:,} users",
            hint="first_row=1, if row 0 is padding" if padded else "make rationales for the users of this model",
        )
    layer = FusionLayer(embedding.embedding_dim, rationales, kind=fusion, dropout=dropout).to(embedding.weight)
    layer.train(embedding.training)
    if reads == "table":
        parametrize.register_parametrization(embedding, "weight", _FusedTable(layer, first_row))
    else:
        setattr(model.get_submodule(parent), name, FusedEmbedding(embedding, layer, first_row))
    return model


class FusedEmbedding(nn.Embedding):
    """An embedding of users whose rows are fused with rationales as they are looked up.

    ``weight`` is the parameter of the embedding it replaces, without rationales, under the same name in the
    state dict.
    """

    def __init__(self, embedding: nn.Embedding, fusion: FusionLayer, first_row: int) -> None:
        super().__init__(
            embedding.num_embeddings,
            embedding.embedding_dim,
            padding_idx=embedding.padding_idx,
            max_norm=embedding.max_norm,
            norm_type=embedding.norm_type,
            scale_grad_by_freq=embedding.scale_grad_by_freq,
            sparse=embedding.sparse,
            _weight=embedding.weight,
        )
        self.weight = embedding.weight
        self.fusion, self.first_row = fusion, first_row
        self.train(embedding.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map rows of any shape to vectors [..., d]."""
        vectors = super().forward(input)
        # To the fusion layer, -1 is nobody: what stands before the first user.
        users = (input.reshape(-1).long() - self.first_row).clamp(min=-1)
        return self.fusion(vectors.reshape(-1, self.embedding_dim), users).view(vectors.shape)


class _FusedTable(nn.Module):
    """Fuse a whole table of users, as a parametrization of an embedding's weight."""

    def __init__(self, fusion: FusionLayer, first_row: int) -> None:
        super().__init__()
        self.fusion, self.first_row = fusion, first_row

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        users = (torch.arange(len(weight), device=weight.device) - self.first_row).clamp(min=-1)
        return self.fusion(weight, users)


def _find(model: nn.Module, path: str) -> nn.Embedding:
    """Return the embedding at a dotted path of a model."""
    embeddings = ", ".join(name for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    where, found = f"{type(model).__name__}.{path}", model
    for part in path.split("."):
        if not hasattr(found, part):
            raise WrapError("the model has no such attribute", where=where, got=part, expected=embeddings)
        found = getattr(found, part)
    if not isinstance(found, nn.Embedding):
        raise WrapError(
            "the attribute is no embedding",
            where=where,
            got=type(found).__name__,
            expected=embeddings or "nn.Embedding",
        )
    if isinstance(found, FusedEmbedding) or parametrize.is_parametrized(found):
        raise WrapError("the embedding is wrapped already", where=where, hint="wrap a model once")
    return found
