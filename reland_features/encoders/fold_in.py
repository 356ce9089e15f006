"""Encode behaviour with what a LightGCN has learnt, without training: later events and new users, in the same space.

LightGCN's vector of a user (He et al., SIGIR 2020, eqs. 3 and 4) is a mean over layers of what its items have::

    e_u = 1/(K+1) · (e_u⁰ + 1/√n_u · Σ_i∈u t_i)      t_i = 1/√n_i · Σ_k<K e_i^k

so a table of t_i, and of e_u⁰ of the users who were there, says everything that later behaviour needs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from reland_features.encoders.base import FITTED, read_vectors, write_vectors
from reland_features.interactions import Interactions, rows_of

_USERS, _ITEMS = f"{FITTED}users.parquet", f"{FITTED}items.parquet"


@dataclass(frozen=True)
class FoldIn:
    """What a fitted LightGCN keeps.

    Assumes that items stay what they were: an item's part, its degree too, is that of the fit. So the vector of a
    user depends on the user's own interactions alone, and stays where it was as long as these are the same.

    Parameters
    ----------
    user_ids, item_ids : polars.Series
        Of the fit, string [U] and [I].
    users, items : numpy.ndarray
        e_u⁰, float32 [U, d], and t_i, float32 [I, d].
    layers : int
        K.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    users: np.ndarray
    items: np.ndarray
    layers: int

    def __call__(self, interactions: Interactions) -> tuple[pl.Series, np.ndarray]:
        """Return the users of whom something is known and their vectors, float32 [V, d].

        Items that the fit has not seen are passed over; a user whom it has not seen has no e_u⁰, which counts as 0.
        Who has neither is left out.
        """
        rows = rows_of(interactions.item_ids, self.item_ids)[interactions.item_rows]
        known = rows >= 0
        # repeated interactions are one edge
        edges = np.unique(interactions.user_rows[known] * len(self.item_ids) + rows[known])
        owners, items = edges // len(self.item_ids), edges % len(self.item_ids)
        degree = np.bincount(owners, minlength=len(interactions.user_ids))
        values = (1.0 / np.sqrt(degree[owners])).astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(degree)])
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        taken = torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(items),
            torch.from_numpy(values),
            size=(len(degree), len(self.items)),
            check_invariants=False,
        )
        vectors: np.ndarray = (taken @ torch.tensor(self.items)).numpy()
        own = rows_of(interactions.user_ids, self.user_ids)
        vectors[own >= 0] += self.users[own[own >= 0]]
        vectors /= self.layers + 1
        found = vectors.any(axis=1)
        if found.all():
            return interactions.user_ids, vectors
        return interactions.user_ids.filter(pl.Series(found)), np.ascontiguousarray(vectors[found])

    def save(self, folder: Path) -> None:
        """Write both tables; K is the encoder's."""
        write_vectors(folder / _USERS, self.user_ids.alias("user_id"), self.users)
        write_vectors(folder / _ITEMS, self.item_ids.alias("item_id"), self.items)

    @classmethod
    def read(cls, folder: Path, layers: int) -> FoldIn:
        """Read what `save` wrote."""
        (user_ids, users), (item_ids, items) = read_vectors(folder / _USERS), read_vectors(folder / _ITEMS)
        return cls(user_ids, item_ids, users, items, layers)
