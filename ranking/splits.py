"""Lay a project's interactions out as row numbers, in a training, a validation and a test part.

Both of the paper's protocols (section 4.1) have this form and come from the project's marts: the last
event of each user for testing and the one before for validation (`evaluation.holdout = 2`), or the last
tenth and the tenth before it (`evaluation.test_fraction = 0.1`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from ranking.project import RankingProject
from reland_features.errors import ConfigError, TableError

Part = Literal["validation", "test", "next"]
"""What is asked for: a held-out part, or `next`, which follows everything that is known and has no targets."""


@dataclass(frozen=True)
class Split:
    """Every user's interactions in time order, and where the parts begin.

    Parameters
    ----------
    user_ids, item_ids : polars.Series
        The ids of the rows, ascending; only items that occur in some part have one.
    offsets : numpy.ndarray
        int64 [U + 1]; user u owns ``items[offsets[u]:offsets[u + 1]]``.
    items : numpy.ndarray
        int64 [N], item rows in user and time order: training, then validation, then test.
    training, validation : numpy.ndarray
        int64 [U], how many of each user's interactions are in these parts; the rest is the test part.
    cut_away : tuple of numpy.ndarray, optional
        (user rows, item rows) of what `keep_last` took from the training part: no ranker reads it, but the users have
        seen it, so that it is no answer.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    offsets: np.ndarray
    items: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    cut_away: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, project: RankingProject) -> Split:
        """Read the marts `interactions` and `holdout`.

        Raises
        ------
        TableError
            No interactions are held out, or there are none to train on.
        """
        return cls.from_frames(*known_events(project), where=str(project.marts))

    @classmethod
    def from_frames(cls, training: pl.DataFrame, held_out: pl.DataFrame, *, where: str = "interactions") -> Split:
        """Build from user_id, item_id in time order within the user; the later half of what is held out is tested on.

        Raises
        ------
        TableError
            A part is empty, an id is null or of another type than in the other part, or a user has an odd number of
            held-out interactions.
        """
        if not training.height or not held_out.height:
            raise TableError(
                "a ranker needs interactions to train on and held-out ones to be measured on",
                where=where,
                got=f"{training.height} interactions, {held_out.height} held out",
                hint="set evaluation.holdout = 2 in reland.toml and run reland run",
            )
        _check_ids(training, held_out, where)
        events = pl.concat([training.select("user_id", "item_id"), held_out.select("user_id", "item_id")])
        user_ids, item_ids = (events[name].unique().sort() for name in ("user_id", "item_id"))
        users, items = _rows(events["user_id"], user_ids), _rows(events["item_id"], item_ids)
        held = np.bincount(users[training.height :], minlength=len(user_ids))
        if (held % 2).any():
            raise TableError(
                "a user has an odd number of held-out interactions",
                where=where,
                got=user_ids.filter(pl.Series(held % 2 == 1)).head(5).to_list(),
                expected="as many to test on as to validate on",
            )
        # A stable sort keeps each user's order, and puts what is held out after what is trained on.
        order = np.argsort(users, kind="stable")
        counts = np.bincount(users, minlength=len(user_ids))
        return cls(
            user_ids,
            item_ids,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            items=items[order],
            training=counts - held,
            validation=held // 2,
        )

    @property
    def n_users(self) -> int:
        """How many users there are, U."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """How many items there are, I."""
        return len(self.item_ids)

    def history_lengths(self, part: Part) -> np.ndarray:
        """Return how many interactions of each user come before a part, int64 [U]."""
        if part == "next":
            return np.diff(self.offsets)
        return self.training if part == "validation" else self.training + self.validation

    def targets(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Return (user rows, item rows) of a part, int64 [T] each, users ascending."""
        start = self.offsets[:-1] + self.history_lengths(part)
        stop = start + self.validation if part == "validation" else self.offsets[1:]
        return _ranges(start, stop, self.items)

    def history(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Return (user rows, item rows) of what a ranker may read before a part, users ascending."""
        start = self.offsets[:-1]
        return _ranges(start, start + self.history_lengths(part), self.items)

    def seen(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Return (user rows, item rows) of what each user did before a part, users ascending: what masking leaves out.

        More than the history where users were cut.
        """
        owners, items = self.history(part)
        if self.cut_away is None:
            return owners, items
        owners, items = np.concatenate([self.cut_away[0], owners]), np.concatenate([self.cut_away[1], items])
        order = np.argsort(owners, kind="stable")
        return owners[order], items[order]

    def training_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (user rows, item rows) of the training part, int64 [N'] each."""
        return self.history("validation")

    def keep_last(self, count: int) -> Split:
        """Cut every user's training part to its last `count` interactions; the other parts stay as they are.

        Raises
        ------
        ConfigError
            `count` is below 1: there would be nothing to train on.
        """
        if count < 1:
            raise ConfigError(
                "users are cut to one interaction at least", where="keep_last", got=count, expected="1 or more"
            )
        drop = np.maximum(self.training - count, 0)
        keep = np.ones(len(self.items), dtype=bool)
        users, taken = _ranges(self.offsets[:-1], self.offsets[:-1] + drop, self.items)
        first = np.repeat(np.cumsum(drop) - drop, drop)
        keep[self.offsets[users] + np.arange(len(users)) - first] = False
        sizes = np.diff(self.offsets) - drop
        before = [] if self.cut_away is None else [self.cut_away]
        owners, items = (np.concatenate(parts) for parts in zip(*before, (users, taken), strict=True))
        return dataclasses.replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            items=self.items[keep],
            training=self.training - drop,
            cut_away=(owners, items),
        )


def known_events(project: RankingProject) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what is trained on and what is held out, user_id and item_id in time order within the user."""
    train = pl.read_parquet(project.mart("interactions"), columns=["user_id", "item_id"])
    held = pl.read_parquet(project.mart("holdout")).sort("user_id", "holdout_rank", descending=[False, True])
    return train, held.select("user_id", "item_id")


def _check_ids(training: pl.DataFrame, held_out: pl.DataFrame, where: str) -> None:
    problems = []
    for name in ("user_id", "item_id"):
        first, second = training[name], held_out[name]
        if first.dtype != second.dtype:
            problems.append(f"{name} is {first.dtype} in the training part and {second.dtype} in what is held out")
        if nulls := first.null_count() + second.null_count():
            problems.append(f"{nulls:,} null {name}")
    if problems:
        raise TableError(
            "interactions have ids that are no rows of a split",
            where=where,
            got="; ".join(problems),
            expected="a user_id and an item_id in every row, of one type in both parts",
        )


def _rows(values: pl.Series, ids: pl.Series) -> np.ndarray:
    index = pl.DataFrame({"id": ids}).with_row_index("row")
    joined = values.rename("id").to_frame().join(index, on="id", how="left", maintain_order="left")
    return joined["row"].cast(pl.Int64).to_numpy()


def _ranges(start: np.ndarray, stop: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the owner and the value of every position of the ranges."""
    lengths = stop - start
    owners = np.repeat(np.arange(len(start)), lengths)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owners, values[start[owners] + within]
