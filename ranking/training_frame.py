"""Join features to ranking rows through Feast: rows in == rows out, in the same order.

Feast hands over every input of an on-demand view, here two embeddings a row: 3 KB at 384 numbers. Rows
are joined in chunks and the vectors dropped as soon as the crosses are computed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from reland_features.columns import USER_RATIONALE
from reland_features.errors import TrainingFrameError

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

CHUNK_ROWS = 20_000
"""About 0.9 s and 400 MB a chunk with 384 numbers a vector; larger chunks are slower per row."""
_ROW = "reland_row"


def training_frame(
    store: FeatureStore,
    entity_df: pl.DataFrame,
    service: str,
    *,
    chunk_rows: int = CHUNK_ROWS,
    show_coverage: bool = True,
) -> pl.DataFrame:
    """Join a feature service to a frame by a point-in-time join.

    Parameters
    ----------
    store : feast.FeatureStore
        An applied repository.
    entity_df : polars.DataFrame
        Join keys, `event_timestamp` and any columns to carry along, such as labels. The same (user, item,
        time) may occur many times.
    service : str
        Name of a feature service.
    chunk_rows : int
        Rows joined at a time.
    show_coverage : bool
        Print to stderr the share of rows for which each feature is there.

    Returns
    -------
    polars.DataFrame
        The columns of `entity_df` as they were and in their order, then the service's features, named
        ``view__feature``.

    Raises
    ------
    TrainingFrameError
        Feast lost, added or changed rows, or the frame lacks a column.

    Warns
    -----
    UserWarning
        The rows meet rationales of several pools, and the service has features that mean something within one only.
    """
    if _ROW in entity_df.columns or "event_timestamp" not in entity_df.columns:
        raise TrainingFrameError(
            "the frame to join cannot be used",
            got=entity_df.columns,
            expected=f"event_timestamp and join keys, and no column {_ROW}",
        )
    definition = store.get_feature_service(service)
    names = feature_names(definition)
    keys = _join_keys(store, definition)
    missing = sorted(keys - set(entity_df.columns))
    if missing:
        raise TrainingFrameError(
            "the frame to join lacks join keys", where=service, got=entity_df.columns, expected=missing
        )
    slim = entity_df.select(*sorted(keys), "event_timestamp").with_row_index(_ROW)
    parts = [
        _join(store, definition, slim[start : start + chunk_rows], names, service)
        for start in range(0, slim.height, chunk_rows)
    ]
    if not parts:
        raise TrainingFrameError("the frame to join has no rows", where=service)
    _warn_of_several_pools(store, definition, slim)
    joined = pl.concat(parts, how="vertical_relaxed")
    frame = pl.concat([entity_df, joined], how="horizontal")
    if show_coverage:
        print(coverage_table(frame, names), file=sys.stderr)
    return frame


def feature_names(service: FeatureService) -> list[str]:
    """Return a service's features as ``view__feature``, in its order."""
    return [
        f"{projection.name_to_use()}__{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    ]


def coverage_table(frame: pl.DataFrame, names: Iterable[str]) -> str:
    """Return a line per feature: in how many of the rows it is there."""
    names = list(names)
    width = max(len(name) for name in names)
    lines = [f"{name:<{width}}  {1 - frame[name].null_count() / frame.height:7.1%}" for name in names]
    return "\n".join([f"{frame.height:,} rows; feature is there in", *lines])


def _join(
    store: FeatureStore, service: FeatureService, chunk: pl.DataFrame, names: list[str], where: str
) -> pl.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = store.get_historical_features(chunk.to_pandas(), features=service, full_feature_names=True).to_arrow()
    keys = [name for name in chunk.columns if name != "event_timestamp"]
    joined = pl.DataFrame(pl.from_arrow(table.select([*keys, *names]))).sort(_ROW)
    if not joined.select(keys).cast(chunk.select(keys).schema).equals(chunk.select(keys)):
        raise TrainingFrameError(
            "the join through Feast did not return the rows it was given",
            where=where,
            got=f"{joined.height:,} rows, {joined[_ROW].n_unique():,} of them distinct",
            expected=f"{chunk.height:,} rows, unchanged",
            hint="use offline_store: {type: duckdb}; the file store drops rows that share key and time",
        )
    return joined.select(names)


def _warn_of_several_pools(store: FeatureStore, service: FeatureService, rows: pl.DataFrame) -> None:
    """Warn where PCA axes and cluster numbers of several pools meet: a ranker would take them for the same."""
    view = USER_RATIONALE.name
    read = {each.name for used in service.feature_view_projections if used.name == view for each in used.features}
    if not (of_one_pool := sorted(read & {"rationale_components", "cluster_id"})):
        return
    users = rows.select("user_id", "event_timestamp").unique(maintain_order=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = store.get_historical_features(users.to_pandas(), features=[f"{view}:pool_version"]).to_arrow()
    pools = pl.Series(table["pool_version"].to_pylist(), dtype=pl.String).drop_nulls().unique().sort()
    if len(pools) > 1:
        warnings.warn(
            f"the rows meet rationales of {len(pools)} pools ({', '.join(pools.head(3))}), and "
            f"{' and '.join(of_one_pool)} mean something else in each: leave them out of what the ranker reads, as "
            "rationale_features(frame, across_pools=True) does, or keep to the rows of one pool",
            stacklevel=3,
        )


def _join_keys(store: FeatureStore, service: FeatureService) -> set[str]:
    views = {view.name: view for view in store.list_feature_views()}
    crosses = {view.name: view for view in store.list_on_demand_feature_views()}
    keys: set[str] = set()
    for projection in service.feature_view_projections:
        cross = crosses.get(projection.name)
        sources = [p.name for p in cross.source_feature_view_projections.values()] if cross else [projection.name]
        keys |= {column.name for name in sources for column in views[name].entity_columns}
    return keys
