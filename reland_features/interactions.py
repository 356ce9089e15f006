"""Hold interactions in memory; the only place that knows row numbers of users and items."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from reland_features.columns import INTERACTIONS


@dataclass(frozen=True)
class Interactions:
    """Who interacted with what and in which order.

    Parameters
    ----------
    frame : polars.DataFrame
        Columns of `columns.INTERACTIONS`, at least `user_id`, `item_id`, `interacted_at` and
        `interaction_order`; sorted by user and order on construction through `from_frame`.
    """

    frame: pl.DataFrame

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Interactions:
        """Sort a frame by (user_id, interaction_order) and wrap it."""
        return cls(frame.sort("user_id", "interaction_order"))

    @classmethod
    def read(cls, path: Path) -> Interactions:
        """Read the `interactions` mart; only the columns that models need are kept in memory."""
        columns = ["user_id", "item_id", "interacted_at", "weight", "interaction_order"]
        return cls.from_frame(pl.scan_parquet(path).select(columns).collect())

    def __len__(self) -> int:
        return self.frame.height

    @cached_property
    def user_ids(self) -> pl.Series:
        """Distinct users in ascending order; position is the user's row number. Shape [U]."""
        return self.frame["user_id"].unique().sort()

    @cached_property
    def item_ids(self) -> pl.Series:
        """Distinct items in ascending order; position is the item's row number. Shape [I]."""
        return self.frame["item_id"].unique().sort()

    @cached_property
    def user_rows(self) -> np.ndarray:
        """Row number of each interaction's user, int64 [N], ascending."""
        return rows_of(self.frame["user_id"], self.user_ids)

    @cached_property
    def item_rows(self) -> np.ndarray:
        """Row number of each interaction's item, int64 [N], in user and time order."""
        return rows_of(self.frame["item_id"], self.item_ids)

    @cached_property
    def counts(self) -> np.ndarray:
        """Interactions of each user, |D_u| of Eq. (2), int64 [U]."""
        return np.bincount(self.user_rows, minlength=len(self.user_ids))

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each user's interactions begin and end: user u owns [offsets[u], offsets[u + 1])."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    def as_of(self, instant: datetime) -> Interactions:
        """Keep what happened at or before an instant (UTC, without zone)."""
        return Interactions(self.frame.filter(pl.col("interacted_at") <= instant))

    def leave_last_out(self, minimum: int = 2) -> tuple[Interactions, Interactions]:
        """Split off every user's last interaction; users with fewer than `minimum` keep all.

        Returns
        -------
        tuple of Interactions
            (the rest, the held-out last interactions).
        """
        last = (pl.col("interaction_order") == pl.col("interaction_order").max().over("user_id")) & (
            pl.len().over("user_id") >= minimum
        )
        return Interactions(self.frame.filter(~last)), Interactions(self.frame.filter(last))


def rows_of(values: pl.Series, vocabulary: pl.Series) -> np.ndarray:
    """Return the position of each value among distinct ones, int64 [N]; -1 where it is not among them."""
    index = pl.DataFrame({"value": vocabulary, "row": np.arange(len(vocabulary), dtype=np.int64)})
    joined = pl.DataFrame({"value": values}).join(index, on="value", how="left", maintain_order="left")
    return joined["row"].fill_null(-1).to_numpy()


def empty_interactions() -> Interactions:
    """Return interactions without rows."""
    return Interactions(pl.DataFrame(schema=INTERACTIONS.polars_schema()))
