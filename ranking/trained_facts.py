"""Keep trained rankers, each with what it says of itself, and check that against the features that it meets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranking.project import RankingProject
from reland_features.artifacts import sync, whole_folder, write_atomically
from reland_features.errors import ArtifactError, FeatureStoreError

FACTS, CURRENT = "ranker.json", "current.json"


def trained_on(project: RankingProject, *, across_pools: bool) -> dict[str, Any]:
    """Return what a trained ranker says of the features it was trained on.

    Parameters
    ----------
    across_pools : bool
        It reads nothing that means something within one pool only: no principal component, no cluster.

    Raises
    ------
    FeatureStoreError
        An older version of the package published, or made the pool, which did not say all of what it is made with.
    """
    if across_pools and not (project.pool_made_with and all(project.pool_made_with.values())):
        raise FeatureStoreError(
            "it is not known what the published pool was made with: an older version published it",
            where=str(project.root),
            expected="pool_made_with in .reland/current.json",
            hint="the same reland run again, which computes nothing anew",
        )
    return {
        "features_run": project.features_run,
        "pool_version": project.pool_version,
        "pool_made_with": project.pool_made_with,
        "across_pools": across_pools,
    }


def required(project: RankingProject) -> dict[str, Any]:
    """Return what a trained ranker and the features it meets must agree on, see `check_facts`.

    New matches, such as a daily publication brings, are what a trained ranker is there for.
    """
    return {"pool_version": project.pool_version, "pool_made_with": project.pool_made_with}


def keep_ranker(models: Path, name: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Path:
    """Write a ranker's files and facts as the folder `name` below `models`, whole, and then make it the current one.

    A folder of that name, which says what is in it, is left as it is.
    """
    folder = models / name
    with whole_folder(folder) as made:
        for file, content in files.items():
            (made / file).write_bytes(content)
            sync(made / file)  # the pointer below is on the disk at once: what it names has to be there, too
        write_atomically(made / FACTS, json.dumps(dict(facts), indent=2) + "\n")
    write_atomically(models / CURRENT, json.dumps({"model": name}) + "\n")
    return folder


def current_ranker(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the current ranker below `folder`, and its facts.

    Raises
    ------
    ArtifactError
        None was trained, or it is damaged.
    """
    pointer = folder / CURRENT
    if not pointer.is_file():
        raise ArtifactError(f"no {name} has been trained", where=str(folder), hint=how_to_train(name))
    try:
        found = folder / json.loads(pointer.read_text())["model"]
        return found, json.loads((found / FACTS).read_text())
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(folder, name, error) from error


def check_facts(found: Path, name: str, facts: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` where a fact is not as it was in training.

    A model that meets principal components or clusters of another pool, or vectors of another text encoder, scores
    without an error and wrongly. So one that reads the former is held to its pool, and one that works `across_pools`
    to what the pool was made with.
    """
    free = "pool_version" if facts.get("across_pools") else "pool_made_with"
    other = {key: facts.get(key) for key, value in expected.items() if key != free and facts.get(key) != value}
    if other:
        lasting = "; with --across-pools it serves the next pools too" if "pool_version" in other else ""
        lasting = " --across-pools" if facts.get("across_pools") else lasting
        raise ArtifactError(
            f"the {name} was trained on other features",
            where=str(found),
            got=other,
            expected={key: expected[key] for key in other},
            hint=how_to_train(name) + lasting,
        )


def unreadable(where: Path, name: str, error: Exception) -> ArtifactError:
    """Return the error of a ranker whose files are damaged or gone."""
    return ArtifactError("a trained ranker cannot be read", where=str(where), got=error, hint=how_to_train(name))


def how_to_train(name: str) -> str:
    """Return the command that trains a ranker."""
    return f"python -m ranking.train --project D --model {name}"
