"""What finished artifacts were made from, by the inputs that their manifests name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reland_features.artifacts import Artifact, ArtifactStore
from reland_features.encoders.base import FITTED
from reland_features.errors import PoolError
from reland_features.project import Project


def to_publish(project: Project) -> str:
    """Return the command that brings what is published up to date and, where it can, makes no other pool.

    `reland publish` makes one where the tables have grown.
    """
    if not (project.state / "current.json").is_file():
        return "reland publish"
    made = project.artifacts.find("reasoning_pool", Path(project.current()["pool"]).name)
    fits = [name for name in made.manifest["inputs"] if name.startswith("behavior_vectors-")] if made else []
    folders = [project.artifacts.root / "behavior_vectors" / name for name in fits]
    return "reland refresh" if any(any(folder.glob(f"{FITTED}*")) for folder in folders) else "reland publish"


def matched_vectors(store: ArtifactStore, features_run: str, pool: Artifact) -> Artifact | None:
    """Return the behaviour vectors that a published run was matched with; None where they are gone.

    They are those of the pool, or later ones in the same space, by `reland refresh`.
    """

    def named(kind: str, made: Artifact | None) -> list[str]:
        return [name for name in (made.manifest["inputs"] if made else ()) if name.startswith(f"{kind}-")]

    matches = [store.find("matches", name) for name in named("matches", store.find("features", features_run))]
    names = named("behavior_vectors", matches[0] if matches else None) or named("behavior_vectors", pool)
    return store.find("behavior_vectors", names[0]) if names else None


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
