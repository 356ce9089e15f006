"""The `feast` stage: what is published is applied, materialized, and what is online."""

from __future__ import annotations

import logging
from pathlib import Path

from reland_features.artifacts import Artifact, Draft
from reland_features.errors import FeatureStoreError
from reland_features.project import Project
from reland_features.publishing import published_run
from reland_features.stages.base import Outcome, Progress, folder_id, run_stage

_LOG = logging.getLogger(__name__)


def serve(project: Project, published: Outcome, progress: Progress) -> Outcome:
    """Apply the Feast repository and materialize the published run into the online store."""
    from reland_features import feature_store
    from reland_features.feast_registry import applied_elsewhere

    settings, repository = project.config.feast, project.feature_repo
    is_asked = settings.apply or settings.materialize
    elsewhere = applied_elsewhere(repository, project.root) if is_asked else None
    _warn_if_older(project, published)

    def work(draft: Draft) -> tuple[int, int]:
        if settings.apply:
            feature_store.apply_repository(repository, root=project.root)
        elif elsewhere:
            raise _not_applied_here(project, elsewhere)
        counts = {}
        if settings.materialize:
            counts = feature_store.materialize(repository, project.features, published.artifact.id)
        draft.facts["materialized"] = counts
        return published.rows_out, sum(counts.values())

    def still_holds(_: Artifact) -> bool:
        # The folder may have been copied or moved, or someone emptied or refilled the online store. Where the folder
        # lies is no part of the id: nothing that is computed depends on it.
        return not elsewhere and (not settings.materialize or _is_online(project, published))

    return run_stage(
        project,
        "feast",
        "online_store",
        as_of=published.as_of,
        config=settings.model_dump(),
        inputs=[published.artifact.id, folder_id(repository)],
        work=work,
        still_holds=still_holds,
    )


def _is_online(project: Project, published: Outcome) -> bool:
    from reland_features import feature_store

    try:
        feature_store.check_freshness(project.feature_repo, project.features, published.artifact.id)
    except FeatureStoreError:
        return False
    return True


def _warn_if_older(project: Project, published: Outcome) -> None:
    """Say that a backfill becomes what is served: online there is one row a key, that of the run served last."""
    newest = published_run(project.features)
    if published.as_of < newest.as_of:
        _LOG.warning(
            "features as of %s (run %s) are served from now on, older than the newest published, as of %s (run %s); "
            "to serve the newest again: reland publish, without --as-of or data.as_of (or reland refresh)",
            published.as_of,
            published.artifact.id,
            newest.as_of,
            newest.run_id,
        )


def _not_applied_here(project: Project, elsewhere: Path) -> FeatureStoreError:
    from reland_features.feast_registry import local_registry

    registry = local_registry(project.feature_repo, project.root)
    return FeatureStoreError(
        "the Feast registry was applied in another folder",
        where=str(registry),
        got=elsewhere,
        expected=f"paths of {project.root}, as feast.apply is off and it is applied by you",
        hint=f"rm {registry}, then: feast -c {project.feature_repo} apply",
    )
