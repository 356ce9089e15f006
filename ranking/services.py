"""Name the Feast services that rankers read; `feature_repo/feature_definitions.py` defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reland_features.errors import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore

USER_SERVICE, ITEM_SERVICE, SEED_SERVICE = "ranker_users", "ranker_items", "ranker_seeds"
"""What a neural ranker reads of a user, an item and a seed: each is joined once, not once a pair."""

EXPLANATION_SERVICE = "rationale_explanation"
"""Why: the Step 1 sentence that a user inherits."""


def check_services(store: FeatureStore) -> None:
    """Raise `FeatureStoreError` where an applied repository does not define what a neural ranker reads."""
    there = {service.name for service in store.list_feature_services()}
    missing = sorted({USER_SERVICE, ITEM_SERVICE, SEED_SERVICE, EXPLANATION_SERVICE} - there)
    if missing:
        raise FeatureStoreError(
            "the Feast repository lacks feature services that this ranker reads",
            where=str(store.repo_path),
            got=sorted(there),
            expected=missing,
            hint="bring feature_definitions.py up to date with this version of the package, then: feast apply",
        )
