"""ReLand's features, defined for Feast.

The sources are parquet files below `features/` of the project folder, next to this repository, or
below the folder that the environment variable RELAND_FEATURES names. `feast apply` stores absolute paths:
`reland publish` in a copied or moved project makes the registry anew, see README.md.
"""

import os
from pathlib import Path

from feast import Entity, FeatureService, Project, ValueType

from reland_features.columns import ITEM_ID, SEED_USER_ID, USER_ID, USER_MATCH_DETAIL
from reland_features.feast import rationale_item_cross, rationale_view, rationale_views, user_item_affinity

OWNER = "recommendations"
FEATURES = os.environ.get("RELAND_FEATURES") or Path(__file__).resolve().parent.parent / "features"

project = Project(name="reland", description="Recommendation rationales of an LLM as features", owner=OWNER)

# Entities

user = Entity(
    name="user",
    join_keys=[USER_ID],
    value_type=ValueType.STRING,
    description="Whoever interacts with items.",
    owner=OWNER,
)
item = Entity(
    name="item",
    join_keys=[ITEM_ID],
    value_type=ValueType.STRING,
    description="What is recommended.",
    owner=OWNER,
)
seed = Entity(
    name="seed",
    join_keys=[SEED_USER_ID],
    value_type=ValueType.STRING,
    description="A user whom the LLM wrote a rationale for.",
    owner=OWNER,
)

# Sources and views

user_rationale, user_seed_match, seed_rationale, user_activity, item_attributes = rationale_views(
    FEATURES, user=user, item=item, seed=seed, owner=OWNER
)

# Published only with match.top_k above 1 or cold_start.enabled; a view without a file could not be materialized
_match_detail = []
if (Path(FEATURES) / USER_MATCH_DETAIL.name).is_dir():
    user_match_detail = rationale_view(USER_MATCH_DETAIL, FEATURES, entity=user, owner=OWNER)
    _match_detail = [user_match_detail[["seed_user_ids", "seed_weights", "pool_version"]]]

# On-demand views: the same function offline and online

rationale_cross = rationale_item_cross(user_rationale, item_attributes, owner=OWNER)
affinity = user_item_affinity(user_activity, item_attributes, owner=OWNER)

# Services

_baseline = [
    user_activity[["interaction_count", "activity_level"]],
    item_attributes[["interaction_count"]],
    affinity[["category_affinity"]],
]

ranker_baseline = FeatureService(
    name="ranker_baseline",
    features=_baseline,
    description="What a ranker has without rationales.",
    owner=OWNER,
    tags={"rationales": "no"},
)
ranker_with_rationales = FeatureService(
    name="ranker_with_rationales",
    features=[
        *_baseline,
        user_rationale[["rationale_components", "similarity", "cluster_id"]],
        rationale_cross[["rationale_item_cosine", "has_rationale"]],
    ],
    description="The same ranker with rationales, as crosses and components that a tree can split on.",
    owner=OWNER,
    tags={"rationales": "yes", "layout": "wide"},
)
rationale_explanation = FeatureService(
    name="rationale_explanation",
    features=[user_rationale[["summary", "seed_user_id", "similarity", "pool_version"]]],
    description="Why: the Step 1 sentence a user inherits, from whom, and out of which pool.",
    owner=OWNER,
    tags={"rationales": "yes"},
)

# Neural rankers read users, items and seeds once each, not once a pair: the compact layout

ranker_users = FeatureService(
    name="ranker_users",
    features=[
        user_activity[["interaction_count", "activity_level"]],
        user_seed_match[["seed_user_id", "similarity", "cluster_id", "pool_version"]],
        *_match_detail,
    ],
    description="What a neural ranker reads of a user: activity, and which seeds' rationales are inherited.",
    owner=OWNER,
    tags={"rationales": "yes", "layout": "compact"},
)
ranker_items = FeatureService(
    name="ranker_items",
    features=[item_attributes[["brand", "categories", "interaction_count", "item_text_embedding"]]],
    description="What a neural ranker reads of an item.",
    owner=OWNER,
    tags={"rationales": "no"},
)
ranker_seeds = FeatureService(
    name="ranker_seeds",
    features=[seed_rationale[["rationale_embedding", "pool_version"]]],
    description="The rationale of each seed user, which a ranker keeps as one matrix.",
    owner=OWNER,
    tags={"rationales": "yes", "layout": "compact"},
)
