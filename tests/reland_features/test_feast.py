"""The factories: schemas that match `columns`, names a team can prefix, crosses with golden numbers."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureView, ValueType
from feast.on_demand_feature_view import OnDemandFeatureView

from reland_features.columns import FEATURE_TABLES, USER_RATIONALE
from reland_features.crosses import category_affinity, cosine, has_vector
from reland_features.feast import (
    RATIONALE_SCHEMA,
    RationaleViews,
    rationale_item_cross,
    rationale_view,
    rationale_views,
    user_item_affinity,
)

USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
ITEM = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
SEED = Entity(name="seed", join_keys=["seed_user_id"], value_type=ValueType.STRING)
ARROW_NAMES = {
    "string": "String",
    "int32": "Int32",
    "int64": "Int64",
    "float32": "Float32",
    "timestamp": "UnixTimestamp",
    "list<string>": "Array(String)",
    "list<float32>": "Array(Float32)",
}


@pytest.fixture
def views() -> RationaleViews:
    return rationale_views("/features", user=USER, item=ITEM, seed=SEED, owner="us", name_prefix="reland_")


def test_views_state_the_same_columns_as_the_tables(views):
    for table, view in zip(FEATURE_TABLES, views, strict=True):
        times = ("event_timestamp", "created_timestamp")
        expected = {c.name: ARROW_NAMES[c.type] for c in table.columns if c.name not in times}
        assert {field.name: str(field.dtype) for field in view.schema} == expected
        assert view.source.path == f"/features/{table.name}/*.parquet"
        assert (view.source.timestamp_field, view.source.created_timestamp_column) == times
        assert view.name == f"reland_{table.name}"
        assert view.owner == "us"
        assert view.description
        assert view.ttl == timedelta(days=180)
        assert view.tags["made_by"] == "reland"
    assert {field.name for field in RATIONALE_SCHEMA} == {f.name for f in views.user_rationale.schema}


def test_an_entity_with_another_key_is_refused():
    other = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
    with pytest.raises(ValueError, match="join key 'user_id', got 'customer_id'"):
        rationale_view(USER_RATIONALE, "/features", entity=other)


def test_crosses_survive_the_registry(views):
    """Feast keeps the transformation as source text; what is rebuilt from it computes the same."""
    inputs = pd.DataFrame(
        {
            "rationale_embedding": [[3.0, 4.0], None],
            "item_text_embedding": [[4.0, 3.0], [1.0, 0.0]],
            "category_names": [["Crime", "Drama"], None],
            "category_shares": [[0.5, 0.25], None],
            "categories": [["Drama", "Crime"], ["Crime"]],
        }
    )
    for view, expected in (
        (
            rationale_item_cross(views.user_rationale, views.item_attributes),
            {"rationale_item_cosine": [pytest.approx(0.96), 0], "has_rationale": [1, 0]},
        ),
        (user_item_affinity(views.user_activity, views.item_attributes), {"category_affinity": [0.75, 0]}),
    ):
        rebuilt = OnDemandFeatureView.from_proto(view.to_proto())
        output = rebuilt.feature_transformation.udf(inputs)
        assert output.to_dict("list") == expected
        assert [f.name for f in rebuilt.features] == list(expected)
        assert set(rebuilt.source_feature_view_projections) <= {v.name for v in views}


def test_cosine_golden_numbers_and_mask():
    left = [np.array([3, 4], np.float32), [1, 0], None, [0, 0], [], [1, 1]]
    right = [[4, 3], np.array([-2, 0]), [1, 0], [1, 0], [1, 0], None]
    assert cosine(left, right).tolist() == [pytest.approx(0.96), -1, 0, 0, 0, 0]
    assert cosine(left, right).dtype == np.float32
    assert has_vector(left).tolist() == [1, 1, 0, 1, 0, 1]
    assert cosine([], []).shape == (0,)


def test_cosine_of_two_encoders_is_refused():
    with pytest.raises(ValueError, match="of 2 and of 3 numbers"):
        cosine([[1, 0]], [[1, 0, 0]])
    with pytest.raises(ValueError, match="different lengths"):
        cosine([[1, 0], [1, 0, 0]], [[1, 0], [1, 0]])


def test_category_affinity_counts_a_repeated_category_once():
    assert category_affinity([["a", "b"]], [[0.5, 0.3]], [["a", "a", "c"]]).tolist() == [0.5]
    assert category_affinity([None, [], ["a"]], [None, [], [1.0]], [["a"], ["a"], None]).tolist() == [0, 0, 0]


def test_views_are_plain_feast(views):
    assert all(type(view) is FeatureView for view in views)
