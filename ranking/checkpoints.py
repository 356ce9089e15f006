"""Keep trained torch rankers: one folder of weights and facts each, and a pointer to the current one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ranking.device import kept_weights
from ranking.trained_facts import check_facts, current_ranker, keep_ranker, unreadable
from reland_features.artifacts import content_id
from reland_features.errors import ArtifactError

_WEIGHTS = "model.safetensors"


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
    return keep_ranker(folder, f"{folder.name}-{identity}", {_WEIGHTS: raw}, facts)


def weights_id(module: torch.nn.Module) -> str:
    """Return a hash of a module's weights: two that are equal score alike."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(kept_weights(module).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(folder: Path, expected: Mapping[str, Any]) -> Checkpoint:
    """Read the current checkpoint below `folder`.

    Parameters
    ----------
    folder : Path
        What `write_checkpoint` wrote to.
    expected : mapping
        Facts that must be as they were in training, see `ranking.trained_facts.required`.

    Raises
    ------
    ArtifactError
        There is none, it is damaged, or an expected fact differs.
    """
    found, facts = current_ranker(folder, folder.name)
    try:
        weights = load_file(found / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(found, folder.name, error) from error
    check_facts(found, folder.name, facts, expected)
    return Checkpoint(found.name, weights, facts)
