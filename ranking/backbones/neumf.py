"""NeuMF (He et al. 2017): a weighted dot product and a multilayer perceptron side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ranking.backbones.base import SameOutput, Sides
from ranking.backbones.dropout import dropped
from ranking.backbones.pairs import Pairs, PairwiseBackbone, check_widths
from ranking.full_ranking import Scorer
from ranking.splits import Part, Split

_ITEMS_PER_BLOCK = 2048  # small enough for the cache while all users pass, large enough for two threads to share


class NeuMF(PairwiseBackbone):
    """Score a user and an item by GMF, w·(e_u ⊙ e_i), and an MLP on [e_u; e_i] with its own embeddings.

    Trained with BPR like all collaborative backbones of the paper (RecBole's default is the log loss). Each of
    the two user tables has a fusion of its own. There is no final dot product to change, so the score gains what
    the output side changes of the dot product of GMF's vectors.

    Parameters
    ----------
    split, sides, batch_size
        As in `PairwiseBackbone`.
    dimension : int
        Width of each embedding.
    widths : sequence of int
        Of the MLP's layers; one or more.
    dropout : float
        Before each MLP layer.
    regularisation : float
        λ of λ/2 (sum of squares of the pair's embeddings) per pair.

    Raises
    ------
    ConfigError
        An option is out of range: there is no layer, or one without a unit.
    """

    def __init__(
        self,
        split: Split,
        *,
        sides: Sides | None = None,
        dimension: int = 64,
        widths: Sequence[int] = (128, 64),
        dropout: float = 0.1,
        batch_size: int = 1024,
        regularisation: float = 0.0,
    ) -> None:
        numbers = {"dimension": dimension, "dropout": dropout, "regularisation": regularisation}
        self.check_options(numbers, counts=("dimension",), shares=("dropout",), not_negative=("regularisation",))
        check_widths(widths, type(self).__name__.lower())
        super().__init__(split, sides=sides, batch_size=batch_size)
        self.rate, self.regularisation = dropout, regularisation
        self.users = nn.ModuleList(nn.Embedding(split.n_users, dimension) for _ in range(2))
        self.items = nn.ModuleList(nn.Embedding(split.n_items, dimension) for _ in range(2))
        self.user_sides = nn.ModuleList(self.sides.users(dimension) for _ in range(2))
        self.item_sides = nn.ModuleList(self.sides.items(dimension) for _ in range(2))
        self.output_side = self.sides.output(dimension)
        self._plain = isinstance(self.output_side, SameOutput)
        self.layers = nn.ModuleList(
            nn.Linear(inner, outer) for inner, outer in zip([2 * dimension, *widths], widths, strict=False)
        )
        self.predict = nn.Linear(dimension + widths[-1], 1)
        for table in (*self.users, *self.items):
            nn.init.normal_(table.weight, std=0.01)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the scores of user rows [B] with item rows [B], float32 [B]."""
        # An output side maps the table of all items; without one, those that are scored are enough.
        rows, items = torch.unique(items, return_inverse=True) if self._plain else (None, items)
        (gmf_user, mlp_user), (gmf_items, mlp_items) = self._users(users), self._items(rows)
        hidden = torch.cat([mlp_user, functional.embedding(items, mlp_items)], dim=1)
        for layer in self.layers:
            hidden = functional.relu(layer(dropped(hidden, self.rate, self.training)))
        product = gmf_user * functional.embedding(items, gmf_items)
        score = self.predict(torch.cat([product, hidden], dim=1)).squeeze(1)
        if self._plain:
            return score
        changed = self.output_side.users(gmf_user, users) * functional.embedding(
            items, self.output_side.items(gmf_items)
        )
        return score + changed.sum(dim=1) - product.sum(dim=1)

    def loss(self, batch: Pairs) -> torch.Tensor:
        """Return BPR."""
        users = batch.users.repeat(2)
        positive, negative = self(users, torch.cat([batch.positives, batch.negatives])).chunk(2)
        loss = functional.softplus(negative - positive).mean()
        if self.regularisation:
            items = torch.cat([batch.positives, batch.negatives])
            tables = ((self.users, batch.users), (self.items, items))
            squares = torch.stack([table(rows).square().sum() for both, rows in tables for table in both]).sum()
            loss = loss + 0.5 * self.regularisation * squares / len(batch.users)
        return loss

    def scorer(self, part: Part) -> Scorer:
        """Rank all items with the two halves of the first MLP layer computed once: W [e_u; e_i] = W_u e_u + W_i e_i."""
        first, *others = self.layers
        with torch.inference_mode():
            everyone = torch.arange(self.split.n_users, device=self.predict.weight.device)
            (gmf_users, mlp_users), (gmf_items, mlp_items) = self._users(everyone), self._items()
            width = mlp_users.shape[1]
            user_half = functional.linear(mlp_users, first.weight[:, :width], first.bias)
            item_half = functional.linear(mlp_items, first.weight[:, width:])
            product_weight, hidden_weight = self.predict.weight[0].split([width, self.layers[-1].out_features])
            pairs = [(gmf_users * product_weight, gmf_items)]
            if not self._plain:
                changed = self.output_side.users(gmf_users, everyone), self.output_side.items(gmf_items)
                pairs += [(-gmf_users, gmf_items), changed]
            products_user, products_item = (torch.cat(side, dim=1) for side in zip(*pairs, strict=True))
        # A transposed copy multiplies faster than the view that functional.linear takes.
        rest = [(layer.bias, layer.weight.detach().T.contiguous()) for layer in others]

        @torch.inference_mode()
        def scores(rows: torch.Tensor) -> torch.Tensor:
            result = products_user[rows] @ products_item.T
            if result.device.type != "cpu":  # the loops below are for a CPU's cache
                hidden = functional.relu(user_half[rows][:, None] + item_half)
                for layer in others:
                    hidden = functional.relu(layer(hidden))
                return result + hidden @ hidden_weight + self.predict.bias
            halves = user_half[rows].unbind()
            for columns, block in zip(
                result.split(_ITEMS_PER_BLOCK, dim=1), item_half.split(_ITEMS_PER_BLOCK), strict=True
            ):
                added = torch.empty_like(columns)
                inner = torch.empty_like(block)
                outer = [block.new_empty(len(block), len(bias)) for bias, _ in rest]
                for half, row in zip(halves, added.unbind(), strict=True):
                    hidden = torch.add(block, half, out=inner).relu_()
                    for (bias, weight), out in zip(rest, outer, strict=True):
                        hidden = torch.addmm(bias, hidden, weight, out=out).relu_()
                    torch.mv(hidden, hidden_weight, out=row)
                columns += added
            return result.add_(self.predict.bias)

        return scores

    def _users(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gmf, mlp = (side(table(rows), rows) for table, side in zip(self.users, self.user_sides, strict=True))
        return gmf, mlp

    def _items(self, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        gmf, mlp = (
            side(table.weight if rows is None else table(rows), rows)
            for table, side in zip(self.items, self.item_sides, strict=True)
        )
        return gmf, mlp
