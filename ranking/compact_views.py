"""Read feature views through Feast for a list of entities: a row each, in their order, vectors as a matrix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reland_features.columns import USER_RATIONALE
from reland_features.errors import RelandError, TrainingFrameError

if TYPE_CHECKING:
    from feast import FeatureStore

    from ranking.project import RankingProject

_ROW = "reland_row"


class FeaturesError(RelandError):
    """Embeddings, or the rows into them, cannot be used by a ranker."""


def read_view(
    store: FeatureStore, view: str, key: str, ids: pl.Series, names: Sequence[str], as_of: datetime
) -> pl.DataFrame:
    """Join a view to entities by a point-in-time join.

    Parameters
    ----------
    store : feast.FeatureStore
        An applied repository.
    view, key : str
        Feature view, and its join key.
    ids : polars.Series
        Entities.
    names : sequence of str
        Features.
    as_of : datetime
        UTC without a zone.

    Returns
    -------
    polars.DataFrame
        The features, one row per id in their order; null for an entity that the view does not know.

    Raises
    ------
    TrainingFrameError
        Feast lost, added or changed rows.
    """
    keys = pl.DataFrame({key: ids.cast(pl.String)}).with_row_index(_ROW)
    entity_df = keys.with_columns(event_timestamp=pl.lit(as_of, pl.Datetime("us")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = [f"{view}:{name}" for name in names]
        table = store.get_historical_features(entity_df.to_pandas(), features=features).to_arrow()
    joined = pl.DataFrame(pl.from_arrow(table.select([_ROW, key, *names]))).sort(_ROW)
    if not joined.select(_ROW, key).cast(keys.schema).equals(keys):
        raise TrainingFrameError(
            "the join through Feast did not return the rows it was given",
            where=view,
            got=f"{joined.height:,} rows, {joined[_ROW].n_unique():,} of them distinct",
            expected=f"{keys.height:,} rows, unchanged",
            hint="use offline_store: {type: duckdb}; the file store drops rows that share key and time",
        )
    return joined.select(names)


def check_pool(versions: pl.Series, project: RankingProject) -> None:
    """Check that rows joined through Feast are of the project's pool, which a trained ranker says it was made with.

    Parameters
    ----------
    versions : polars.Series
        The pool version of each row; null for one without a rationale.

    Raises
    ------
    FeaturesError
        Some are of another pool: Feast takes the last published rows, whichever run is current.
    """
    other = versions.drop_nulls().filter(versions.drop_nulls() != project.pool_version)
    if len(other):
        raise FeaturesError(
            "Feast joins rows of another reasoning pool than the project's",
            where=str(project.repository),
            got=f"{len(other):,} rows of pool {', '.join(other.unique().sort().head(3))}",
            expected=f"pool {project.pool_version}, run {project.features_run}",
            hint="a later run was published for the same time: reland run makes one current",
        )


def check_pool_of_users(store: FeatureStore, users: pl.Series, project: RankingProject) -> None:
    """Check the same of users' rationales, for frames whose service does not name the pool.

    To be called after the join: what is published while it runs is found too.
    """
    view, name = USER_RATIONALE.name, "pool_version"
    check_pool(read_view(store, view, "user_id", users.unique().sort(), [name], project.as_of)[name], project)


def vectors(lists: pl.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn a column of lists into a matrix.

    Parameters
    ----------
    lists : polars.Series
        list<float32> [n]; null or empty is no vector. A column of no type, an online store's answer where it has
        none, is all null.
    where : str
        The feature, for the message.

    Returns
    -------
    tuple of numpy.ndarray
        float32 [n, D], zeros where there is no vector, and bool [n], where there is one. D is the most
        frequent width, and 0 where there is no vector at all.

    Raises
    ------
    FeaturesError
        Vectors differ in width, or hold NaN, infinity or null.
    """
    lists = lists.cast(pl.List(pl.Float32))
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    present = lengths > 0
    width = int(np.bincount(lengths[present]).argmax()) if present.any() else 0
    numbers = lists.filter(pl.Series(present)).list.explode().cast(pl.Float32).to_numpy()
    owner = np.repeat(np.flatnonzero(present), lengths[present])
    wrong = int((present & (lengths != width)).sum())
    bad = len(np.unique(owner[~np.isfinite(numbers)]))
    if wrong or bad:
        raise FeaturesError(
            "embeddings cannot be used",
            where=where,
            got=f"of {len(lists):,} rows, {wrong:,} are not {width} wide and {bad:,} hold NaN, infinity or null",
            expected=f"{width} finite numbers, or null, in every row",
            hint="one text encoder must have made them all: reland run",
        )
    matrix = np.zeros((len(lists), width), dtype=np.float32)
    matrix[present] = numbers.reshape(-1, width) if width else 0.0
    return matrix, present
