"""Add the rationale views to a Feast repository you already have: the lines between the marks."""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Int64
from feast.value_type import ValueType

from reland_features.feast import rationale_item_cross, rationale_views

user = Entity(name="customer", join_keys=["user_id"], value_type=ValueType.STRING)
item = Entity(name="product", join_keys=["item_id"], value_type=ValueType.STRING)
orders = FeatureView(
    name="orders",
    entities=[user],
    ttl=timedelta(days=365),
    schema=[Field(name="orders_30d", dtype=Int64)],
    source=FileSource(name="orders_source", path="orders.parquet", timestamp_field="event_timestamp"),
)

# --- added ---
seed = Entity(name="seed", join_keys=["seed_user_id"], value_type=ValueType.STRING)
features = Path(__file__).resolve().parents[1] / "features"  # what `reland run` publishes; an absolute path
views = rationale_views(features, user=user, item=item, seed=seed)
user_rationale, user_seed_match, seed_rationale, user_activity, item_attributes = views
cross = rationale_item_cross(user_rationale, item_attributes)
# --- end ---

ranker = FeatureService(
    name="ranker", features=[orders, cross, user_rationale[["similarity", "cluster_id", "rationale_components"]]]
)
