"""What finished artifacts were made from, by the inputs that their manifests name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from reland_features.artifacts import Artifact, ArtifactStore
from reland_features.encoders.base import FITTED
from reland_features.errors import PoolError
from reland_features.project import Project

_LOG = logging.getLogger(__name__)


def warn_of_another_pool(project: Project, marts: Artifact, encoder_id: str) -> None:
    """Say, before an encoder is fitted to later tables, that this leaves the published pool behind.

    Where `reland refresh` could not keep it, as for an earlier day or another encoder, nothing is said.
    """
    fitted = _fit_of_published_pool(project)
    if fitted is None or fitted.manifest["encoder_id"] != encoder_id:
        return
    if marts.id in fitted.manifest["inputs"] or marts.manifest["as_of"] < fitted.manifest["as_of"]:
        return
    _LOG.warning(
        "the tables have changed since the published pool was made (behaviour up to %s, now %s): this makes another "
        "pool. Most users inherit another text then, seeds whose history has changed are asked about again, and "
        "rankers have to be trained again. To keep the pool: reland refresh",
        fitted.manifest["as_of"],
        marts.manifest["as_of"],
    )


def _fit_of_published_pool(project: Project) -> Artifact | None:
    """Return the behaviour vectors of the published pool; None where there is none or it cannot be matched to again."""
    if not (project.state / "current.json").is_file():
        return None
    pool = project.artifacts.find("reasoning_pool", Path(project.current()["pool"]).name)
    fitted = found_input(project.artifacts, "behavior_vectors", pool)
    return fitted if fitted and any(fitted.path.glob(f"{FITTED}*")) else None


def to_publish(project: Project) -> str:
    """Return the command that brings what is published up to date and, where it can, makes no other pool.

    `reland publish` makes one where the tables have grown.
    """
    return "reland refresh" if _fit_of_published_pool(project) else "reland publish"


def matched_vectors(store: ArtifactStore, features_run: str, pool: Artifact) -> Artifact | None:
    """Return the behaviour vectors that a published run was matched with; None where they are gone.

    They are those of the pool, or later ones in the same space, by `reland refresh`.
    """
    matches = found_input(store, "matches", store.find("features", features_run))
    kind = "behavior_vectors"
    return found_input(store, kind, matches if _inputs_of_kind(kind, matches) else pool)


def found_input(store: ArtifactStore, kind: str, made: Artifact | None) -> Artifact | None:
    """Return the first input of a kind of an artifact; None where it is gone or there is none."""
    names = _inputs_of_kind(kind, made)
    return store.find(kind, names[0]) if names else None


def _inputs_of_kind(kind: str, made: Artifact | None) -> list[str]:
    return [name for name in (made.manifest["inputs"] if made else ()) if name.startswith(f"{kind}-")]


def input_of(store: ArtifactStore, kind: str, ids: Sequence[str], where: Path) -> Artifact:
    """Return the finished artifact of a kind among the inputs of another, which is found at `where`.

    Raises
    ------
    PoolError
        It is gone.
    """
    found = [store.find(kind, artifact_id) for artifact_id in ids if artifact_id.startswith(f"{kind}-")]
    if not found or found[0] is None:
        raise PoolError(
            f"the {kind} that this pool was made from are gone" if ids else "the pool is not finished",
            where=str(where),
            got=", ".join(ids),
            expected=f"a finished artifact below {store.root / kind}",
            hint="reland run makes it again",
        )
    return found[0]
