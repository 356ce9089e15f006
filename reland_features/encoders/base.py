"""What every behaviour encoder does: Eq. (1), M = BehaviorEncoder(U, D; Θ')."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl

from reland_features.interactions import Interactions


@dataclass(frozen=True)
class BehaviorVectors:
    """One vector per user, the rows of M in Eq. (1).

    Parameters
    ----------
    user_ids : polars.Series
        Distinct users, string [U].
    vectors : numpy.ndarray
        float32 [U, d], finite, no zero row.
    encoder_id : str
        Which encoder made them; matching against another encoder's pool is refused.
    as_of : datetime
        The last instant of behaviour used (UTC).
    """

    user_ids: pl.Series
    vectors: np.ndarray
    encoder_id: str
    as_of: datetime

    @property
    def dimension(self) -> int:
        """Width d of the vectors."""
        return int(self.vectors.shape[1])

    def without(self, users: pl.Series) -> BehaviorVectors:
        """Return the vectors of all other users."""
        kept = ~self.user_ids.is_in(users.implode())
        return replace(self, user_ids=self.user_ids.filter(kept), vectors=self.vectors[kept.to_numpy()])

    def write(self, path: Path) -> None:
        """Write `columns.BEHAVIOR_VECTORS`; vectors uncompressed and without dictionary."""
        frame = pl.DataFrame(
            {"user_id": self.user_ids, "vector": pl.Series(self.vectors, dtype=pl.Array(pl.Float32, self.dimension))}
        ).with_columns(pl.col("vector").arr.to_list())
        frame.write_parquet(path, compression="uncompressed")

    @classmethod
    def read(cls, path: Path, encoder_id: str, as_of: datetime) -> BehaviorVectors:
        """Read what `write` wrote."""
        frame = pl.read_parquet(path)
        dimension = len(frame["vector"][0]) if frame.height else 0
        values = frame["vector"].explode(empty_as_null=False).to_numpy().reshape(frame.height, dimension)
        return cls(frame["user_id"], np.ascontiguousarray(values, dtype=np.float32), encoder_id, as_of)


@runtime_checkable
class BehaviorEncoder(Protocol):
    """A lightweight behaviour encoder; `package.module:Class` in the configuration names a user's own.

    The class is constructed as ``Class(dimension=..., seed=..., **encoder.options)``.
    """

    encoder_id: str
    """Name and every parameter that changes vectors."""

    def encode(self, interactions: Interactions, as_of: datetime) -> BehaviorVectors:
        """Fit on the interactions and return a vector for every user that has any."""
        ...
