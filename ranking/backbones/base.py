"""What every backbone is: a torch module that makes batches, a loss, and representations of users and items.

A backbone never knows what a rationale is. It asks `Sides` for three modules, which are identities when
there are no features:

* ``sides.items(d)`` maps item ID embeddings [n, d] of item rows [n], or of all items, to item embeddings [n, d]
  (`+ f_item`), wherever the model reads an item;
* ``sides.users(d)`` maps user vectors [n, d] and their user rows [n] to [n, d] (the FusionLayer of Eq. 4-5):
  collaborative backbones apply it to the user ID table, sequential ones, which have none, to the sequence
  output at every position;
* ``sides.output(d)`` maps final user vectors and final item vectors to [n, d'] and [I, d'] just before their
  dot product (a second path beside Eq. 5, or another method's adaptor).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ranking.full_ranking import Scorer
from ranking.setting_limits import check_limits
from ranking.splits import Part, Split


class OutputSide(Protocol):
    """Changes both sides of the final dot product."""

    def users(self, vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Map user vectors [n, d] of the user rows [n] to [n, d']."""

    def items(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map the item vectors [I, d] to [I, d']."""


class Sides(Protocol):
    """Makes the modules by which features come in; each call makes a new module with its own weights."""

    by_event: bool
    """Whether users' features change with time: sequential backbones then give, for user rows, the rows of the
    last interaction that an output has read (of `Split.items`; -1 is none)."""

    def check(self, split: Split) -> None:
        """Raise FeaturesError where there are features of another number of users, or of items, than the split's."""

    def items(self, dimension: int) -> nn.Module:
        """Return a module: (item ID embeddings [n, d], item rows int64 [n], or none for all) → [n, d]."""

    def users(self, dimension: int) -> nn.Module:
        """Return a module: (user vectors [n, d], user rows int64 [n]) → [n, d]."""

    def output(self, dimension: int) -> nn.Module:
        """Return a module with the two methods of `OutputSide`."""


class NoSides:
    """ID only: three identities."""

    by_event = False

    def check(self, split: Split) -> None:
        """Take any split."""

    def items(self, dimension: int) -> nn.Module:
        """Return the identity on the first argument."""
        return First()

    def users(self, dimension: int) -> nn.Module:
        """Return the identity on the first argument."""
        return First()

    def output(self, dimension: int) -> nn.Module:
        """Return the identity on both sides."""
        return SameOutput()


class First(nn.Module):
    """Return the first argument."""

    def forward(self, vectors: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return `vectors`."""
        return vectors


class SameOutput(nn.Module):
    """Leave both sides of the dot product as they are."""

    def users(self, vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return `vectors`."""
        return vectors

    def items(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return `vectors`."""
        return vectors


class Backbone(nn.Module):
    """A recommender of the paper's section 4.1.

    Parameters
    ----------
    split : Split
        What it is trained on; only the training part is read by `batches`.
    sides : Sides
        How features come in.

    Raises
    ------
    FeaturesError
        There are features of another number of users, interactions or items than the split has.

    Subclasses give `batches`, `loss` and `representations`; those whose score is no dot product give `scorer`.
    Everything random is drawn from the generator that `batches` is given and from torch's global one, which
    `ranking.fitting.fit` seeds.
    """

    def __init__(self, split: Split, sides: Sides | None = None) -> None:
        super().__init__()
        self.split = split
        self.sides: Sides = sides or NoSides()
        self.sides.check(split)  # a row that is not the user's would train without an error

    @classmethod
    def check_options(cls, options: Mapping[str, Any], **limits: Sequence[str]) -> None:
        """Raise ConfigError for options out of range; `limits` are those of `check_limits`."""
        check_limits(options, cls.__name__.lower(), **limits)

    def batches(self, generator: np.random.Generator) -> Iterator[Any]:
        """Yield the batches of one epoch over the training part."""
        raise NotImplementedError

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""
        raise NotImplementedError

    def representations(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final user vectors [U, d'] from the histories before a part, and item vectors [I, d'].

        Called without gradients and in evaluation mode; the score is their dot product.
        """
        raise NotImplementedError

    def scorer(self, part: Part) -> Scorer:
        """Return a function from user rows [n] to scores of all items [n, I]."""
        users, items = self.representations(part)
        transposed = items.T.contiguous()  # multiplies faster than the view, for every block of users
        return lambda rows: users[rows] @ transposed
