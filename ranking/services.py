"""Name the Feast services that rankers read; `feature_repo/feature_definitions.py` defines them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from reland_features.columns import USER_MATCH_DETAIL
from reland_features.errors import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore

    from ranking.project import RankingProject

USER_SERVICE, ITEM_SERVICE, SEED_SERVICE = "ranker_users", "ranker_items", "ranker_seeds"
"""What a neural ranker reads of a user, an item and a seed: each is joined once, not once a pair."""

EXPLANATION_SERVICE = "rationale_explanation"
"""Why: the Step 1 sentence that a user inherits."""

_HINT = "bring feature_definitions.py up to date with this version of the package, then: feast apply"


def match_detail(project: RankingProject) -> Path:
    """Return the file that says which seeds each user has; it is not there where everybody has the best one."""
    return project.root / "features" / USER_MATCH_DETAIL.name / f"{project.features_run}.parquet"


def check_services(store: FeatureStore, project: RankingProject) -> None:
    """Raise `FeatureStoreError` where an applied repository does not define what a neural ranker reads.

    That is three services, and in that of users the view `user_match_detail`, where the project's run gives some user
    several seeds: without it everybody would be served the best seed alone.
    """
    services = {service.name: service for service in store.list_feature_services()}
    there = set(services)
    missing = sorted({USER_SERVICE, ITEM_SERVICE, SEED_SERVICE, EXPLANATION_SERVICE} - there)
    if missing:
        raise FeatureStoreError(
            "the Feast repository lacks feature services that this ranker reads",
            where=str(store.repo_path),
            got=sorted(there),
            expected=missing,
            hint=_HINT,
        )
    views = [projection.name for projection in services[USER_SERVICE].feature_view_projections]
    if USER_MATCH_DETAIL.name not in views and _several_seeds(match_detail(project)):
        raise FeatureStoreError(
            "the Feast repository does not give rankers all the seeds of a user",
            where=f"{store.repo_path}, {USER_SERVICE}",
            got=", ".join(views),
            expected=USER_MATCH_DETAIL.name,
            hint=_HINT,
        )


def _several_seeds(detail: Path) -> bool:
    if not detail.is_file():
        return False
    longest = pl.scan_parquet(detail).select(pl.col("seed_user_ids").list.len().max()).collect(engine="streaming")
    return (longest.item() or 0) > 1
