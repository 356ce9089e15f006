"""Turn features from Feast, offline or online, into the rows that MaskNet reads.

The same encoder makes both, so that what is served is what was trained. A value that training did not
have takes the unknown row; a user without a rationale takes the missing mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from ranking.masknet import PADDING, FieldSizes, ItemTable, UserTable
from ranking.seed_lists import rows_and_shares
from ranking.services import ITEM_SERVICE
from ranking.trained_facts import how_to_train
from reland_features.errors import ArtifactError, TrainingFrameError
from reland_features.fused_rationales import fuse

HISTORY = 50
"""Items of the behaviour sequence that are read, the last ones."""
_ACTIVITY, _USER_COUNT = "user_activity__activity_level", "user_activity__interaction_count"
_SEED, _SIMILARITY = "user_seed_match__seed_user_id", "user_seed_match__similarity"
_CLUSTER, _POOL = "user_seed_match__cluster_id", "user_seed_match__pool_version"
_RATIONALE, _SEED_POOL = "seed_rationale__rationale_embedding", "seed_rationale__pool_version"
_BRAND, _CATEGORIES = "item_attributes__brand", "item_attributes__categories"
_ITEM_COUNT, _TEXT = "item_attributes__interaction_count", "item_attributes__item_text_embedding"


@dataclass(frozen=True)
class Vocabulary:
    """The values of one field that training had, ascending; row 0 is any other value and null."""

    values: tuple[str, ...]

    @classmethod
    def of(cls, column: pl.Series, least: int = 1) -> Vocabulary:
        """Keep the values that occur at least so many times."""
        counts = column.cast(pl.String).drop_nulls().value_counts(name="rows")
        return cls(tuple(counts.filter(pl.col("rows") >= least)[column.name].sort()))

    @property
    def size(self) -> int:
        """Rows of an embedding table, the unknown one included."""
        return len(self.values) + 1

    def rows(self, column: pl.Series) -> np.ndarray:
        """Return the row of each value, int64 [n]."""
        index = pl.DataFrame({"value": pl.Series(self.values, dtype=pl.String)}).with_row_index("row", offset=1)
        values = pl.DataFrame({"value": column.cast(pl.String)})
        rows = values.join(index, on="value", how="left", maintain_order="left")["row"]
        return rows.fill_null(0).cast(pl.Int64).to_numpy(writable=True)


@dataclass(frozen=True)
class FieldEncoder:
    """Which values each field knows.

    Parameters
    ----------
    profiles : mapping of str to Vocabulary
        Columns of the user profile.
    text : int
        Width of rationale and item text embeddings.
    """

    profiles: Mapping[str, Vocabulary]
    activity: Vocabulary
    user_count: Vocabulary
    items: Vocabulary
    brands: Vocabulary
    categories: Vocabulary
    item_count: Vocabulary
    clusters: Vocabulary
    text: int

    @classmethod
    def fit(cls, users: pl.DataFrame, items: pl.DataFrame, *, across_pools: bool = False) -> FieldEncoder:
        """Learn the values of training rows; a profile value or a brand counts from its second occurrence.

        Parameters
        ----------
        users : polars.DataFrame
            One row a user: the features of `USER_SERVICE`, profile and history.
        items : polars.DataFrame
            One row an item: item_id and the features of `ITEM_SERVICE`.
        across_pools : bool
            Know no cluster, which means something within one pool only: everybody's is the unknown one.

        Raises
        ------
        TrainingFrameError
            No item has a text embedding.
        """
        widths = items[_TEXT].list.len().drop_nulls()
        if not len(widths):
            raise TrainingFrameError("no item has features", where=ITEM_SERVICE, got=f"{items.height} rows")
        parsed = _profiles(users["profile"])
        return cls(
            profiles={name: Vocabulary.of(values, least=2) for name, values in sorted(parsed.items())},
            activity=Vocabulary.of(users[_ACTIVITY]),
            user_count=Vocabulary.of(_bucket(users[_USER_COUNT])),
            items=Vocabulary.of(items["item_id"]),
            brands=Vocabulary.of(items[_BRAND], least=2),
            categories=Vocabulary.of(items[_CATEGORIES].explode()),
            item_count=Vocabulary.of(_bucket(items[_ITEM_COUNT])),
            clusters=Vocabulary(()) if across_pools else Vocabulary.of(_clusters(users)),
            text=int(widths.mode().min()),  # type: ignore[arg-type]
        )

    @property
    def sizes(self) -> FieldSizes:
        """Sizes of the model's tables."""
        names = ("activity", "user_count", "items", "brands", "categories", "item_count", "clusters")
        sizes = {name: getattr(self, name).size for name in names}
        return FieldSizes(profiles=tuple(v.size for v in self.profiles.values()), text=self.text, **sizes)

    def encode_users(self, users: pl.DataFrame, seeds: pl.DataFrame) -> UserTable:
        """Encode users.

        Parameters
        ----------
        users : polars.DataFrame
            The features of `USER_SERVICE`, `profile` (text or null) and `history` (list of item ids or null).
        seeds : polars.DataFrame
            seed_user_id and the features of `SEED_SERVICE`. A user none of whose seeds is there, or who is matched
            in another pool version, has no rationale; several are fused as in `user_rationale`.

        Raises
        ------
        TrainingFrameError
            A feature is missing, of a wrong width, or not finite.
        """
        _check_columns(users, [_ACTIVITY, _USER_COUNT, _SEED, _SIMILARITY, _CLUSTER, _POOL, "profile", "history"])
        _check_columns(seeds, ["seed_user_id", _RATIONALE, _SEED_POOL])
        seeds = seeds.filter(pl.col(_RATIONALE).is_not_null())
        table, seed = _fused(
            _matrix(seeds[_RATIONALE], self.text, _RATIONALE),
            *rows_and_shares(users, seeds.select("seed_user_id", pool_version=_SEED_POOL)),
        )
        similarity = users[_SIMILARITY].cast(pl.Float32).fill_null(0.0).to_numpy()
        _check_finite(similarity, _SIMILARITY)
        parsed = _profiles(users["profile"])
        nothing = pl.Series([None] * users.height, dtype=pl.String)
        profile = [vocabulary.rows(parsed.get(name, nothing)) for name, vocabulary in self.profiles.items()]
        return UserTable(
            profile=torch.from_numpy(np.stack(profile, axis=1) if profile else np.zeros((users.height, 0), np.int64)),
            activity=torch.from_numpy(self.activity.rows(users[_ACTIVITY])),
            count=torch.from_numpy(self.user_count.rows(_bucket(users[_USER_COUNT]))),
            history=torch.from_numpy(_padded(users["history"].list.tail(HISTORY), self.items)),
            rationales=torch.from_numpy(table),
            seed=torch.from_numpy(seed),
            similarity=torch.from_numpy(np.where(seed >= 0, similarity, np.float32(0))),
            cluster=torch.from_numpy(self.clusters.rows(_clusters(users))),
        )

    def encode_items(self, items: pl.DataFrame) -> ItemTable:
        """Encode items: item_id and the features of `ITEM_SERVICE`, nulls for an unknown one.

        Raises
        ------
        TrainingFrameError
            A feature is missing, of a wrong width, or not finite.
        """
        _check_columns(items, ["item_id", _BRAND, _CATEGORIES, _ITEM_COUNT, _TEXT])
        return ItemTable(
            item=torch.from_numpy(self.items.rows(items["item_id"])),
            brand=torch.from_numpy(self.brands.rows(items[_BRAND])),
            count=torch.from_numpy(self.item_count.rows(_bucket(items[_ITEM_COUNT]))),
            categories=torch.from_numpy(_padded(items[_CATEGORIES], self.categories)),
            text=torch.from_numpy(_matrix(items[_TEXT], self.text, _TEXT)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the vocabularies as JSON-able values."""
        single = {n: list(v.values) for n, v in vars(self).items() if isinstance(v, Vocabulary)}
        return {"profiles": {n: list(v.values) for n, v in self.profiles.items()}, "text": self.text, **single}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FieldEncoder:
        """Read what `as_dict` gave.

        Raises
        ------
        ArtifactError
            An older version wrote it, which took equal numbers of different pools for one cluster.
        """
        if bad := [value for value in values["clusters"] if "/" not in value]:
            raise ArtifactError(
                "the masknet was trained by an older version, which knew clusters by their number alone",
                got=", ".join(bad[:3]),
                hint=how_to_train("masknet"),
            )
        single = {n: Vocabulary(tuple(v)) for n, v in values.items() if n not in ("profiles", "text")}
        profiles = {n: Vocabulary(tuple(v)) for n, v in values["profiles"].items()}
        return cls(profiles=profiles, text=values["text"], **single)


def _clusters(users: pl.DataFrame) -> pl.Series:
    """Name each user's cluster by its pool, too: the next pool's cluster of the same number is another one."""
    return users.select(pl.concat_str(pl.col(_POOL), pl.col(_CLUSTER).cast(pl.String), separator="/")).to_series()


def _profiles(column: pl.Series) -> dict[str, pl.Series]:
    """Split ``name: value; name: value`` into a column per name."""
    rows = [dict(part.split(": ", 1) for part in text.split("; ") if ": " in part) if text else {} for text in column]
    names = sorted({name for row in rows for name in row})
    return {name: pl.Series(name, [row.get(name) for row in rows], dtype=pl.String) for name in names}


def _bucket(counts: pl.Series) -> pl.Series:
    """Return ⌊2·log2(1 + count)⌋: two buckets a doubling keep what popularity alone tells."""
    return (2 * (counts.cast(pl.Float64) + 1).log(2)).floor().cast(pl.Int64)


def _padded(lists: pl.Series, vocabulary: Vocabulary) -> np.ndarray:
    """Return the rows of each list's values, int64 [n, longest], padded; at least one column."""
    lists = lists.cast(pl.List(pl.String))
    lengths = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    out = np.full((len(lists), max(1, int(lengths.max(initial=0)))), PADDING, dtype=np.int64)
    values = lists.filter(pl.Series(lengths > 0)).explode()
    out[np.arange(out.shape[1]) < lengths[:, None]] = vocabulary.rows(values)
    return out


def _fused(table: np.ndarray, rows: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of the rationales that users have, float32 [S, width], and the row of each, int64 [U], or -1.

    Where nobody has several seeds it is the seeds' own; else one row for each mixture that some user has.
    """
    if rows.shape[1] == 1:
        return table, rows[:, 0].copy()
    has = (rows >= 0).any(axis=1)
    mixed = np.unique(np.concatenate([rows[has], shares[has]], axis=1), axis=0, return_inverse=True)
    parts = np.split(mixed[0], 2, axis=1)
    row = np.full(len(rows), -1, dtype=np.int64)
    row[has] = mixed[1].reshape(-1)
    return fuse(table, parts[0].astype(np.int64), parts[1].astype(np.float32)) if has.any() else table, row


def _matrix(vectors: pl.Series, width: int, name: str) -> np.ndarray:
    """Return float32 [n, width], zeros for null."""
    there = vectors.is_not_null().to_numpy()
    found = vectors.cast(pl.List(pl.Float32)).drop_nulls()
    wrong = found.list.len().unique().to_list()
    if wrong and wrong != [width]:
        raise TrainingFrameError(
            "embeddings have a wrong width",
            where=name,
            got=f"{sorted(wrong)} numbers",
            expected=f"{width}, as item texts had in training",
            hint="rationales and items must come from one text encoder: reland run, then train again",
        )
    out = np.zeros((len(vectors), width), dtype=np.float32)
    if len(found):
        out[there] = found.explode().fill_null(np.nan).to_numpy().reshape(-1, width)
    _check_finite(out, name)
    return out


def _check_finite(values: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(values)
    bad = bad.any(axis=1) if values.ndim == 2 else bad
    if bad.any():
        raise TrainingFrameError(
            "features are not finite", where=name, got=f"NaN or infinity in {int(bad.sum())} of {len(values)} rows"
        )


def _check_columns(frame: pl.DataFrame, needed: list[str]) -> None:
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise TrainingFrameError("features are missing", got=frame.columns, expected=missing)
