"""Say what decides the course of a training, so that one that was killed is gone on with as it was begun."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from numbers import Real

import numpy as np
import torch
from torch import nn

from ranking.backbones.base import Backbone


def training_course(backbone: Backbone, settings: Mapping[str, object], seed: int) -> dict[str, object]:
    """Return what decides the course of a training, apart from the weights' shapes.

    A backbone's options are found as the public attributes, of it and of its own modules, that are plain values,
    such as its batch size, and as the rates of torch's dropout. The training part, the validation part, which decides
    the best epoch, and the features are there as hashes.

    Parameters
    ----------
    settings : mapping
        Plain values, from `FitSettings.course`.
    """
    split = backbone.split
    # What a cut took away is masked where validation items are ranked.
    parts = {
        "training part": (split.training, split.training_pairs()[1]),
        "validation part": (*split.targets("validation"), *(split.cut_away or ())),
    }
    options = {
        f"{place}.{name}".lstrip("."): value
        for place, module in backbone.named_modules()
        if not type(module).__module__.startswith("torch.")  # their options are in shapes, or in who made them
        for name, value in vars(module).items()
        if isinstance(value, Real | str) and not name.startswith("_") and name != "training"
    }
    rates = {f"{place}.p": module.p for place, module in backbone.named_modules() if isinstance(module, nn.Dropout)}
    facts = {"backbone": type(backbone).__name__, **options, **rates, **settings, "seed": seed}
    # Values of numpy would be written in a way that torch refuses to read.
    plain = {name: float(v) if isinstance(v, Real) and not isinstance(v, int) else v for name, v in facts.items()}
    return plain | {name: _hash_of(arrays) for name, arrays in parts.items()} | _constants(backbone)


def _constants(backbone: Backbone) -> dict[str, object]:
    """Return a hash of each tensor that a state file does not carry: texts, and whose they are.

    They are non-persistent buffers. Those with a private name, such as a graph, follow from the training part, which
    has a hash already; so without features there is none here, and states from before there were any still fit.
    """
    return {
        f"{place}.{name}".lstrip("."): _hash(value)
        for place, module in backbone.named_modules()
        for name, value in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and not name.startswith("_")
    }


def _hash_of(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _hash(value: torch.Tensor) -> str:
    dense = value.detach().cpu().to_dense().contiguous()
    digest = hashlib.blake2b(f"{dense.dtype} {tuple(dense.shape)} ".encode(), digest_size=8)
    digest.update(dense.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
