"""Put rationales into a ranker that knows nothing of them: any torch module with an embedding of its users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.utils import parametrize

from ranking.fusion import FusionLayer, Kind
from ranking.rationales import Rationales
from reland_features.errors import RelandError

Reads = Literal["rows", "table"]


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
    reads: Reads = "rows",
) -> nn.Module:
    """Fuse the rationales with the user embedding of a model, Eq. (5), wherever the model looks a user up.

    The model itself is changed and returned; its call signature stays. Wrap before making the optimizer,
    which must see the new weights, and after loading weights saved without rationales. The embedding stays
    the object that it is, under all names that the model has for it; a class or hooks of its own, and other
    parametrizations, keep doing what they do, and what comes of them is fused.

    A state dict holds the weights, and how texts were scaled in training: loaded into a model that is wrapped with
    the rationales of another day or of a few users, it scores the same text the same. ``torch.compile`` takes
    a wrapped model; ``torch.export`` does not, because how many texts are encoded depends on who is looked up.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.
    rationales : Rationales
        In the order of the model's users.
    user_embedding : str
        Its `torch.nn.Embedding` of users; a dotted path such as ``towers.user.embedding`` leads into it.
        Rows that it is called with are taken for users' rows, also where its class has a ``forward`` of its own.
    fusion : {"attention", "concat", "gate"}
        See `FusionLayer`.
    dropout : float
        Of the projected rationale, in training.
    first_row : int
        Row of the first user: 1 where row 0 is padding. Rows before it are never fused, nor is a last row that is the
        embedding's ``padding_idx`` and no user.
    reads : {"rows", "table"}
        How the model reads its users. "rows": it calls the embedding with user rows, and ``weight`` stays
        the ID embedding without rationales. "table": it reads ``weight`` as a whole, as graph models
        (LightGCN, NGCF) do; then ``weight`` itself is fused, for all users at every access. That is a torch
        parametrization, so the model is saved by its ``state_dict()``; ``torch.save(model)`` is refused by torch.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    WrapError
        There is no such attribute or way of reading, it is no embedding of the model or wrapped already, or its rows
        are not the users. The model is then as it was. When the model is called: the embedding is given rows that
        it does not have, or returns something else than a vector for each, as one with a ``forward`` of its own may.
    """
    if reads not in get_args(Reads):
        raise WrapError("there is no such way to read users", where="reads", got=reads, expected="rows or table")
    where = f"{type(model).__name__}.{user_embedding}"
    embedding = _find(model, user_embedding, where)
    _check_users(embedding, rationales, first_row, where)
    layer = FusionLayer(embedding.embedding_dim, rationales, kind=fusion, dropout=dropout).to(embedding.weight)
    layer.train(embedding.training)
    users = _Users(first_row, rationales.n_users)
    if reads == "table":
        parametrize.register_parametrization(embedding, "weight", _FusedTable(layer, users))
    else:
        # A hook, and not another module in its place: the model may hold the embedding under several names, in plain
        # lists too, and it may be of a class of its own.
        embedding.fusion = layer
        embedding.register_forward_hook(partial(_fused, users=users, where=where), with_kwargs=True)
    return model


@dataclass(frozen=True)
class _Users:
    """Which rows of an embedding are users': `count` of them from `first` on."""

    first: int
    count: int

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the users of rows, int64 [n]; padding before the first and after the last is nobody, -1."""
        users = rows - self.first
        return users.where((users >= 0) & (users < self.count), -1)


def _fused(
    embedding: nn.Embedding,
    given: tuple[Any, ...],
    named: Mapping[str, Any],
    vectors: torch.Tensor,
    *,
    users: _Users,
    where: str,
) -> torch.Tensor:
    """Fuse what an embedding returns for rows of any shape, [..., d]: a forward hook."""
    rows, d = (*given, *named.values())[0], embedding.embedding_dim
    if type(embedding).forward is not nn.Embedding.forward:
        _check_call(embedding, rows, vectors, where)
    fused: torch.Tensor = embedding.fusion(vectors.reshape(-1, d), users.of(rows.reshape(-1).long()))
    return fused.view(vectors.shape)


class _FusedTable(nn.Module):
    """Fuse a whole table of users, as a parametrization of an embedding's weight."""

    def __init__(self, fusion: FusionLayer, users: _Users) -> None:
        super().__init__()
        self.fusion, self.users = fusion, users

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return self.fusion(weight, self.users.of(torch.arange(len(weight), device=weight.device)))


def _find(model: nn.Module, path: str, where: str) -> nn.Embedding:
    """Return the embedding at a dotted path of a model."""
    embeddings = ", ".join(name for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    found: Any = model
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
    if not any(module is found for module in model.modules()):
        raise WrapError(
            "the embedding is no module of the model, so what is learnt for it would not be the model's",
            where=where,
            got="an embedding that is made anew at every access, or is held in a list or the like",
            expected=embeddings or "nn.Embedding",
            hint="give the path of a registered one; a list of modules is an nn.ModuleList",
        )
    tables = found.parametrizations["weight"] if parametrize.is_parametrized(found, "weight") else ()
    if any(isinstance(each, _FusedTable) for each in tables) or isinstance(getattr(found, "fusion", None), FusionLayer):
        raise WrapError("the embedding is wrapped already", where=where, hint="wrap a model once")
    if hasattr(found, "fusion"):
        raise WrapError(
            "the embedding has an attribute of the name that the FusionLayer would take",
            where=f"{where}.fusion",
            got=type(found.fusion).__name__,
            hint="call it something else",
        )
    return found


def _check_users(embedding: nn.Embedding, rationales: Rationales, first_row: int, where: str) -> None:
    """Raise WrapError unless there are rationales for each row from the first, but for a last one that is padding."""
    users, last = embedding.num_embeddings - first_row, embedding.num_embeddings - 1
    fitting = {users, users - 1} if last and embedding.padding_idx == last else {users}
    if rationales.n_users in fitting and first_row >= 0:
        return
    hint = "make rationales for the users of this model"
    if first_row == 0 and users == rationales.n_users + 1:
        hint = "first_row=1, if row 0 is padding; give the embedding a padding_idx, if the last row is"
        hint = "first_row=1: row 0 is padding" if embedding.padding_idx == 0 else hint
    raise WrapError(
        "the embedding has another number of users than there are rationales for",
        where=where,
        got=f"{embedding.num_embeddings:,} rows, users from row {first_row}",
        expected=f"{rationales.n_users:,} users",
        hint=hint,
    )


def _check_call(embedding: nn.Embedding, rows: torch.Tensor, vectors: object, where: str) -> None:
    """Raise WrapError unless a forward of its own takes rows of the table and returns a vector for each."""
    inside = not rows.numel() or (int(rows.min()) >= 0 and int(rows.max()) < embedding.num_embeddings)
    wanted = (*rows.shape, embedding.embedding_dim)
    got = tuple(vectors.shape) if isinstance(vectors, torch.Tensor) else type(vectors).__name__
    if not inside or got != wanted:
        raise WrapError(
            f"{type(embedding).__name__} does not map rows of users to their vectors, so no rationale can be fused",
            where=where,
            got=f"{got}, {'of' if inside else 'not all of'} rows below {embedding.num_embeddings:,}",
            expected=f"{wanted}, of rows below {embedding.num_embeddings:,}",
            hint="give user_embedding the nn.Embedding inside, or call ranking.fusion.FusionLayer in its forward",
        )
