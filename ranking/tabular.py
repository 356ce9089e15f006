"""Turn a training frame, or an online answer, into the columns of a tree ranker.

The same function makes both matrices. Its defaults are the mask: whoever has no rationale gets
``has_rationale`` 0, zeros, and cluster -1, and is scored by the columns that are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reland_features.errors import ConfigError, TrainingFrameError

if TYPE_CHECKING:
    import pandas as pd

BASELINE_SERVICE = "ranker_baseline"
RATIONALE_SERVICE = "ranker_with_rationales"
COMPONENTS = "user_rationale__rationale_components"
_CLUSTER = "user_rationale__cluster_id"
_LEVELS = {"L1": 1.0, "L2": 2.0, "L3": 3.0, "L4": 4.0}


@dataclass(frozen=True)
class Column:
    """One column of the matrix: from which feature, how transformed, and what stands for null."""

    name: str
    feature: str
    default: float = 0.0
    transform: str = "as_is"


BASELINE_COLUMNS = (
    Column("log_item_interactions", "item_attributes__interaction_count", transform="log"),
    Column("log_user_interactions", "user_activity__interaction_count", transform="log"),
    Column("activity_level", "user_activity__activity_level", transform="level"),
    Column("category_affinity", "user_item_affinity__category_affinity"),
)
RATIONALE_COLUMNS = (
    Column("rationale_item_cosine", "rationale_item_cross__rationale_item_cosine"),
    Column("similarity", "user_rationale__similarity"),
    Column("cluster", _CLUSTER, default=-1.0),
    Column("has_rationale", "rationale_item_cross__has_rationale"),
)


@dataclass(frozen=True)
class TabularFeatures:
    """The columns of one ranker.

    Parameters
    ----------
    service : str
        Feast service that holds every feature, offline and online.
    components : int
        PCA components of the rationale that become columns; 0 for a ranker without rationales.
    more : tuple of Column
        Of features that the frame has beside the service's.
    across_pools : bool
        Leave out what means something within one pool only, components and cluster: a ranker without them may learn
        from rows of several pools, and need not be trained again for the next one.

    Raises
    ------
    ConfigError
        Components are asked for, and across pools.
    """

    service: str
    components: int = 0
    more: tuple[Column, ...] = ()
    across_pools: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for components whose axes differ from row to row."""
        if self.across_pools and self.components:
            raise ConfigError(
                "components mean something within one pool only",
                where="across_pools",
                got=f"components={self.components}",
                expected=0,
                hint="rationale_features(frame, across_pools=True)",
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns that are made from one number each."""
        with_rationales = self.service != BASELINE_SERVICE
        of_rationales = (c for c in RATIONALE_COLUMNS if not (self.across_pools and c.feature == _CLUSTER))
        return BASELINE_COLUMNS + (tuple(of_rationales) if with_rationales else ()) + self.more

    @property
    def names(self) -> list[str]:
        """Names of all columns, in the order of the matrix."""
        return [c.name for c in self.columns] + [f"rationale_component_{n}" for n in range(self.components)]

    def matrix(self, frame: pl.DataFrame | pd.DataFrame) -> np.ndarray:
        """Return float32 [rows, len(names)] without a NaN.

        Parameters
        ----------
        frame : polars.DataFrame or pandas.DataFrame
            The service's features, named ``view__feature``, of any type that holds numbers; null is no value.

        Raises
        ------
        TrainingFrameError
            The frame lacks features of the service, or holds one that is infinite or no number, or rationales have
            another number of components.
        """
        frame = as_polars(frame)
        check_columns(
            frame, [c.feature for c in self.columns] + [COMPONENTS] * bool(self.components), where=self.service
        )
        columns = [_column(frame, column) for column in self.columns]
        if self.components:
            columns += list(_components(frame[COMPONENTS], self.components).T)
        matrix = np.column_stack(columns).astype(np.float32)
        finite = np.asarray(np.isfinite(matrix).all(axis=0))
        if not finite.all():
            bad = [name for name, ok in zip(self.names, finite, strict=True) if not ok]
            raise TrainingFrameError("features are not finite", where=self.service, got=bad)
        return matrix


def baseline_features() -> TabularFeatures:
    """Return the columns of a ranker without rationales."""
    return TabularFeatures(BASELINE_SERVICE)


def rationale_features(frame: pl.DataFrame | pd.DataFrame, *, across_pools: bool = False) -> TabularFeatures:
    """Return the columns of a ranker with rationales, as many components as the frame holds.

    With `across_pools` there are no components and no cluster, see `TabularFeatures`.

    Raises
    ------
    TrainingFrameError
        The frame has no column of components, or one that holds no lists of numbers.
    """
    if across_pools:
        return TabularFeatures(RATIONALE_SERVICE, across_pools=True)
    frame = as_polars(frame)
    check_columns(frame, [COMPONENTS], where=RATIONALE_SERVICE)
    lengths = _lists(frame[COMPONENTS]).list.len().drop_nulls().to_numpy()
    return TabularFeatures(RATIONALE_SERVICE, int(lengths.max(initial=0)))


def as_polars(frame: object) -> pl.DataFrame:
    """Return a frame of polars or pandas, which is what Feast's own `to_df` gives, as one of polars.

    Raises
    ------
    TrainingFrameError
        It is neither, or a column holds values of several types.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    kind = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
    if kind != "pandas.DataFrame":
        hint = "collect() it" if isinstance(frame, pl.LazyFrame) else ""
        raise TrainingFrameError("this is no frame", got=kind, expected="a frame of polars or pandas", hint=hint)
    try:
        return pl.from_pandas(frame)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:  # Arrow's errors are among these
        raise TrainingFrameError("a pandas frame cannot be read", got=error) from error


def check_columns(frame: pl.DataFrame, needed: Sequence[str], *, where: str) -> None:
    """Raise TrainingFrameError where columns are missing."""
    if missing := [name for name in needed if name not in frame.columns]:
        raise TrainingFrameError("features are missing", where=where, got=frame.columns, expected=missing)


def online_frame(answer: Mapping[str, list[object]]) -> pl.DataFrame:
    """Return what `get_online_features(...).to_dict()` gave as a frame like a training frame."""
    return pl.DataFrame({name: pl.Series(name, values, strict=False) for name, values in answer.items()})


def _column(frame: pl.DataFrame, column: Column) -> np.ndarray:
    values = frame[column.feature]
    if column.transform == "level":
        numbers = _cast(values, pl.String()).replace_strict(_LEVELS, default=None, return_dtype=pl.Float64)
    else:
        numbers = _cast(values, pl.Float64())
    out = numbers.fill_nan(None).fill_null(column.default).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):  # a negative count is named with what is not finite
        return np.log1p(out) if column.transform == "log" else out


def _components(values: pl.Series, components: int) -> np.ndarray:
    values = _lists(values)
    lengths = values.list.len().fill_null(0).to_numpy()
    if other := sorted({int(length) for length in lengths[(lengths > 0) & (lengths != components)]}):
        raise TrainingFrameError(
            "rationales have another number of components than the ranker was made for",
            where=COMPONENTS,
            got=", ".join(map(str, other)),
            expected=components,
            hint="they are of another pool: publish one pool to train on, then python -m ranking.train --project D",
        )
    out = np.zeros((len(values), components))
    has = lengths > 0
    # A null inside a list becomes NaN, which is named with what is not finite.
    out[has] = values.filter(pl.Series(has)).list.explode().to_numpy().reshape(-1, components)
    return out


def _lists(values: pl.Series) -> pl.Series:
    """Return list<float64>; a column of no type, as where nobody has a rationale, is all null."""
    return _cast(values, pl.List(pl.Float64()))


def _cast(values: pl.Series, kind: pl.DataType) -> pl.Series:
    try:
        return values.cast(kind)
    except pl.exceptions.PolarsError as error:
        raise TrainingFrameError(
            "a feature is of another type than in training", where=values.name, got=values.dtype, expected=kind
        ) from error
