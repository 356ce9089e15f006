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
        write_vectors(path, self.user_ids.alias("user_id"), self.vectors)

    @classmethod
    def read(cls, path: Path, encoder_id: str, as_of: datetime) -> BehaviorVectors:
        """Read what `write` wrote."""
        return cls(*read_vectors(path), encoder_id, as_of)


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


@runtime_checkable
class ReusableEncoder(BehaviorEncoder, Protocol):
    """An encoder whose fit is kept, so that later behaviour and new users are encoded into the same space.

    A class of one's own needs this only for `reland refresh`.
    """

    def save(self, folder: Path) -> None:
        """Write what the last `encode` learnt into a folder, as files whose names begin with `FITTED`."""
        ...

    def transform(self, interactions: Interactions, as_of: datetime, fitted: Path) -> BehaviorVectors:
        """Encode behaviour at or before `as_of` with what `save` wrote, without fitting anything.

        Users of whom the fit knows nothing, neither themselves nor an item of theirs, are left out.
        """
        ...


FITTED = "fitted_"
"""How the names of the files begin that `ReusableEncoder.save` writes."""


def write_vectors(path: Path, ids: pl.Series, vectors: np.ndarray) -> None:
    """Write an id column, under the name of its series, and float32 [N, d] as `vector`, uncompressed."""
    values = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])).arr.to_list()
    pl.DataFrame([ids, values]).write_parquet(path, compression="uncompressed")


def read_vectors(path: Path) -> tuple[pl.Series, np.ndarray]:
    """Read what `write_vectors` wrote: the ids and float32 [N, d]."""
    frame = pl.read_parquet(path)
    dimension = len(frame["vector"][0]) if frame.height else 0
    values = frame["vector"].explode(empty_as_null=False).to_numpy().reshape(frame.height, dimension)
    return frame.to_series(0), np.ascontiguousarray(values, dtype=np.float32)
