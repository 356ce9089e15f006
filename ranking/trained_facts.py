"""Keep trained rankers, each with what it says of itself, and check that against the features that it meets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranking.project import RankingProject
from reland_features.artifacts import sync, whole_folder, write_atomically
from reland_features.errors import ArtifactError

FACTS, CURRENT = "ranker.json", "current.json"


def trained_on(project: RankingProject) -> dict[str, str]:
    """Return what a trained ranker says of the features it was trained on."""
    return {"features_run": project.features_run, "pool_version": project.pool_version}


def required(project: RankingProject) -> dict[str, str]:
    """Return what a trained ranker and the features it meets must agree on.

    The pool fixes the text encoder, which seeds there are, and what a principal component means. New matches with the
    same pool, such as a daily publication brings, are what a trained ranker is there for.
    """
    return {"pool_version": project.pool_version}


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

    A model that meets embeddings of another pool, or ids of another catalogue, scores without an error and wrongly.
    """
    other = {key: facts.get(key) for key, value in expected.items() if facts.get(key) != value}
    if other:
        raise ArtifactError(
            f"the {name} was trained on other features",
            where=str(found),
            got=other,
            expected={key: expected[key] for key in other},
            hint=how_to_train(name),
        )


def unreadable(where: Path, name: str, error: Exception) -> ArtifactError:
    """Return the error of a ranker whose files are damaged or gone."""
    return ArtifactError("a trained ranker cannot be read", where=str(where), got=error, hint=how_to_train(name))


def how_to_train(name: str) -> str:
    """Return the command that trains a ranker."""
    return f"python -m ranking.train --project D --model {name}"
