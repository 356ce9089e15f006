"""Keep trained torch rankers: one folder of weights and facts each, and a pointer to the current one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ranking.project import RankingProject
from reland_features.artifacts import content_id, write_atomically
from reland_features.errors import ArtifactError

_WEIGHTS, _FACTS, _CURRENT = "model.safetensors", "ranker.json", "current.json"


def trained_on(project: RankingProject) -> dict[str, str]:
    """Return what a checkpoint says of the features it was trained on."""
    return {"features_run": project.features_run, "pool_version": project.pool_version}


def required(project: RankingProject) -> dict[str, str]:
    """Return what a checkpoint and the features it meets must agree on.

    The pool fixes the text encoder and which seeds there are. New matches with the same pool, such as a daily
    publication brings, are what a trained ranker is there for.
    """
    return {"pool_version": project.pool_version}


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what is needed to make the model they belong to.

    Parameters
    ----------
    name : str
        Of its folder.
    weights : mapping of str to torch.Tensor
        A state dictionary.
    facts : mapping
        JSON-able: features run, settings, vocabularies.
    """

    name: str
    weights: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]

    def fill(self, model: torch.nn.Module) -> None:
        """Load the weights into a model and put it in evaluation mode.

        Raises
        ------
        ArtifactError
            They are of another shape.
        """
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise ArtifactError(
                "the weights do not fit the model", where=self.name, got=error, hint="train again"
            ) from error
        model.eval()


def write_checkpoint(weights: Mapping[str, torch.Tensor], facts: Mapping[str, Any], folder: Path) -> Path:
    """Write a checkpoint below `folder`, named by its content, and then make it the current one."""
    raw = save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    identity = content_id([facts, hashlib.blake2b(raw).hexdigest()])
    target = folder / f"{folder.name}-{identity}"
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / _WEIGHTS).write_bytes(raw)
    write_atomically(partial / _FACTS, json.dumps(dict(facts), indent=2) + "\n")
    if not target.exists():
        partial.rename(target)
    shutil.rmtree(partial, ignore_errors=True)
    write_atomically(folder / _CURRENT, json.dumps({"model": target.name}) + "\n")
    return target


def read_checkpoint(folder: Path, expected: Mapping[str, Any]) -> Checkpoint:
    """Read the current checkpoint below `folder`.

    Parameters
    ----------
    folder : Path
        What `write_checkpoint` wrote to.
    expected : mapping
        Facts that must be as they were in training, see `required`: a model that
        meets embeddings of another pool, or ids of another catalogue, scores without an error and wrongly.

    Raises
    ------
    ArtifactError
        There is none, it is damaged, or an expected fact differs.
    """
    hint = f"python -m ranking.train --project D --model {folder.name}"
    pointer = folder / _CURRENT
    if not pointer.is_file():
        raise ArtifactError(f"no {folder.name} has been trained", where=str(folder), hint=hint)
    found = folder / json.loads(pointer.read_text())["model"]
    try:
        facts = json.loads((found / _FACTS).read_text())
        weights = load_file(found / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError("a trained ranker cannot be read", where=str(found), got=error, hint=hint) from error
    other = {name: facts.get(name) for name, value in expected.items() if facts.get(name) != value}
    if other:
        raise ArtifactError(
            f"the {folder.name} was trained on other features",
            where=str(found),
            got=other,
            expected={name: expected[name] for name in other},
            hint=hint,
        )
    return Checkpoint(found.name, weights, facts)
