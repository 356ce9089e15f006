"""Make Feast objects from `columns`: views, their sources, and the on-demand crosses.

These factories are all that a team needs to add the features to a Feast repository it already has::

    from reland_features.feast import rationale_item_cross, rationale_views

    user_rationale, user_seed_match, seed_rationale, user_activity, item_attributes = rationale_views(
        "/srv/reland/features", user=user, item=item, seed=seed
    )
    cross = rationale_item_cross(user_rationale, item_attributes)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from feast import Entity, FeatureView, Field, FileSource, OnDemandFeatureView
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp

from reland_features.columns import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    ITEM_ATTRIBUTES,
    SEED_RATIONALE,
    USER_ACTIVITY,
    USER_MATCH_DETAIL,
    USER_RATIONALE,
    USER_SEED_MATCH,
    Table,
)
from reland_features.feature_store import apply_repository, check_freshness, materialize, open_store

__all__ = [
    "RATIONALE_SCHEMA",
    "RationaleViews",
    "apply_repository",
    "check_freshness",
    "feast_schema",
    "materialize",
    "open_store",
    "rationale_item_cross",
    "rationale_source",
    "rationale_view",
    "rationale_views",
    "user_item_affinity",
]

TTL = timedelta(days=180)
"""How long a row counts in a point-in-time join. Feast does not enforce it when it serves online."""

TYPES: Mapping[str, FeastType] = {
    "string": String,
    "int32": Int32,
    "int64": Int64,
    "float32": Float32,
    "float64": Float64,
    "bool": Bool,
    "timestamp": UnixTimestamp,
    "list<string>": Array(String),
    "list<float32>": Array(Float32),
}
"""Feast's type of each logical type in `columns`."""

_DESCRIPTIONS = {
    USER_RATIONALE.name: "Wide layout: the rationale each user inherits from the most similar seed user.",
    USER_SEED_MATCH.name: "Compact layout, 1 of 2: which seed user each user is matched to.",
    SEED_RATIONALE.name: "Compact layout, 2 of 2: the rationale of each seed user.",
    USER_ACTIVITY.name: "How much each user interacted, and with which categories.",
    USER_MATCH_DETAIL.name: "How each user was matched: all seeds and their weights, by behaviour or by profile.",
    ITEM_ATTRIBUTES.name: "What is known about each item, and the embedding of its text.",
}


class RationaleViews(NamedTuple):
    """The five views; unpack them into names of your definitions file, where Feast looks for them."""

    user_rationale: FeatureView
    user_seed_match: FeatureView
    seed_rationale: FeatureView
    user_activity: FeatureView
    item_attributes: FeatureView


def rationale_views(
    source_root: str | Path,
    *,
    user: Entity,
    item: Entity,
    seed: Entity,
    ttl: timedelta | None = TTL,
    name_prefix: str = "",
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> RationaleViews:
    """Make a view of each feature table.

    Parameters
    ----------
    source_root : path
        The folder that `reland publish` writes to. Make it absolute: the duckdb offline store resolves
        relative paths against the working directory, not against the repository.
    user, item, seed : feast.Entity
        Their join keys are ``user_id``, ``item_id`` and ``seed_user_id``, strings.
    ttl : timedelta, optional
        None keeps rows for ever.
    name_prefix : str
        Put before every view's and source's name, where yours would clash.
    owner, tags
        Stamped on views and sources.

    Raises
    ------
    ValueError
        An entity has another join key.
    """

    def view(table: Table, entity: Entity) -> FeatureView:
        return rationale_view(
            table, source_root, entity=entity, ttl=ttl, name_prefix=name_prefix, owner=owner, tags=tags
        )

    return RationaleViews(
        view(USER_RATIONALE, user),
        view(USER_SEED_MATCH, user),
        view(SEED_RATIONALE, seed),
        view(USER_ACTIVITY, user),
        view(ITEM_ATTRIBUTES, item),
    )


def rationale_view(
    table: Table,
    source_root: str | Path,
    *,
    entity: Entity,
    ttl: timedelta | None = TTL,
    name_prefix: str = "",
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> FeatureView:
    """Make the view of one feature table; parameters as in `rationale_views`."""
    if (entity.join_key,) != table.key:
        raise ValueError(f"view {table.name} needs an entity with join key {table.key[0]!r}, got {entity.join_key!r}")
    return FeatureView(
        name=name_prefix + table.name,
        entities=[entity],
        ttl=ttl,
        schema=feast_schema(table),
        source=rationale_source(table, source_root, name_prefix=name_prefix, owner=owner),
        online=True,
        description=_DESCRIPTIONS[table.name],
        owner=owner,
        tags={"made_by": "reland", **(tags or {})},
    )


def rationale_source(table: Table, source_root: str | Path, *, name_prefix: str = "", owner: str = "") -> FileSource:
    """Make the source of one feature table: every run published so far, as a glob."""
    return FileSource(
        name=f"{name_prefix}{table.name}_source",
        path=str(Path(source_root) / table.name / "*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED_TIMESTAMP,
        description=f"Published runs of {table.name}: append-only, one file a run.",
        owner=owner,
    )


def feast_schema(table: Table) -> list[Field]:
    """Return a table's columns as Feast fields: join key and features, without the two timestamps."""
    times = (EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    return [
        Field(name=column.name, dtype=TYPES[column.type], description=column.description)
        for column in table.columns
        if column.name not in times
    ]


RATIONALE_SCHEMA: list[Field] = feast_schema(USER_RATIONALE)
"""The wide view's fields, for a team that defines its own view over its own source."""


def rationale_item_cross(
    user_rationale: FeatureView,
    item_attributes: FeatureView,
    *,
    name: str = "rationale_item_cross",
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> OnDemandFeatureView:
    """Make the on-demand view of a user's rationale against an item.

    Features: ``rationale_item_cosine`` (Float32, 0 without a rationale or for an unknown item) and
    ``has_rationale`` (Int64, 1 or 0), the mask that tells a missing rationale from an orthogonal one.
    """
    return _on_demand(
        _rationale_item_cross,
        name,
        [Field(name="rationale_item_cosine", dtype=Float32), Field(name="has_rationale", dtype=Int64)],
        [user_rationale[["rationale_embedding"]], item_attributes[["item_text_embedding"]]],
        "Does the user's inherited rationale speak of items like this one?",
        owner,
        tags,
    )


def user_item_affinity(
    user_activity: FeatureView,
    item_attributes: FeatureView,
    *,
    name: str = "user_item_affinity",
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> OnDemandFeatureView:
    """Make the on-demand view of a user's history against an item; no rationale is involved.

    Feature: ``category_affinity`` (Float32), the share of the history in the item's categories. It is a
    view of its own so that a ranker without rationales does not read embeddings.
    """
    return _on_demand(
        _user_item_affinity,
        name,
        [Field(name="category_affinity", dtype=Float32)],
        [user_activity[["category_names", "category_shares"]], item_attributes[["categories"]]],
        "How much of the user's history lies in the item's categories?",
        owner,
        tags,
    )


def _on_demand(
    function: Callable[[pd.DataFrame], pd.DataFrame],
    name: str,
    schema: list[Field],
    sources: list[FeatureView],
    description: str,
    owner: str,
    tags: Mapping[str, str] | None,
) -> OnDemandFeatureView:
    # pandas, not python: rows keep their vectors as arrays; python mode turns every float into an object.
    return OnDemandFeatureView(
        name=name,
        schema=schema,
        sources=list(sources),
        udf=function,
        udf_string=inspect.getsource(function),
        mode="pandas",
        description=description,
        owner=owner,
        tags={"made_by": "reland", **(tags or {})},
    )


# Feast stores the source text of these and runs it elsewhere: they import what they need themselves.


def _rationale_item_cross(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    from reland_features.crosses import cosine, has_vector

    rationales = inputs["rationale_embedding"].to_list()
    return pd.DataFrame(
        {
            "rationale_item_cosine": cosine(rationales, inputs["item_text_embedding"].to_list()),
            "has_rationale": has_vector(rationales),
        }
    )


def _user_item_affinity(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    from reland_features.crosses import category_affinity

    columns = [inputs[name].to_list() for name in ("category_names", "category_shares", "categories")]
    return pd.DataFrame({"category_affinity": category_affinity(*columns)})
