"""The paper's six backbones and two sanity floors, by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from ranking.backbones.base import Backbone, Sides
from ranking.splits import Split
from reland_features.errors import ConfigError

SEQUENTIAL = ("gru4rec", "sasrec", "duorec")
COLLABORATIVE = ("neumf", "ngcf", "lightgcn")
FLOORS = ("popularity", "itemknn")
_CLASSES = {
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "duorec": "DuoRec",
    "neumf": "NeuMF",
    "ngcf": "NGCF",
    "lightgcn": "LightGCN",
    "popularity": "Popularity",
    "itemknn": "ItemKNN",
}


def build(
    name: str, split: Split, options: Mapping[str, Any] | None = None, *, sides: Sides | None = None, seed: int = 0
) -> Backbone:
    """Make an untrained backbone.

    Parameters
    ----------
    name : str
        One of `SEQUENTIAL`, `COLLABORATIVE` or `FLOORS`.
    split : Split
        What it is trained on.
    options : mapping, optional
        Keyword arguments of its class.
    sides : Sides, optional
        How features come in; without it, IDs only.
    seed : int
        Of the initial weights.

    Raises
    ------
    ConfigError
        See `check_options`; or features by event for a backbone that knows no order.
    """
    kind, options = check_options(name, options), dict(options or {})
    if sides is not None and sides.by_event and name not in SEQUENTIAL:
        raise ConfigError(
            "this backbone reads users, not their moments", got=name, expected=f"one of {', '.join(SEQUENTIAL)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(split, sides=sides, **options)


def check_options(name: str, options: Mapping[str, Any] | None = None) -> type[Backbone]:
    """Return a backbone's class, if it takes these options: to be asked before anything is trained.

    Raises
    ------
    ConfigError
        No such backbone, or no such option, or one is missing or of another type than its class says.
    """
    if name not in _CLASSES:
        raise ConfigError("no such backbone", got=name, expected=sorted(_CLASSES))
    kind: type[Backbone] = getattr(importlib.import_module(f"ranking.backbones.{name}"), _CLASSES[name])
    options = dict(options or {})
    taken, required = _options_of(kind)
    if not required <= options.keys() <= taken.keys():
        raise ConfigError(
            "a backbone does not take these options",
            where=name,
            got=", ".join(map(str, options)) or "none",
            expected=f"among {', '.join(sorted(taken))}"
            + (f"; and not without {', '.join(sorted(required))}" if required else ""),
        )
    for option, value in options.items():
        try:
            plain = value.item() if isinstance(value, np.generic) else value
            TypeAdapter(taken[option]).validate_python(plain, strict=True)
        except ValidationError as error:
            what = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(
                "an option of a backbone is of the wrong type", where=f"{name}.{option}", got=repr(value), expected=what
            ) from error
    return kind


def _options_of(kind: type[Backbone]) -> tuple[dict[str, Any], set[str]]:
    """Return the types of the options that a class takes, by name, and those that it cannot do without."""
    types: dict[str, Any] = {}
    found: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        found = {one.name: one for one in parameters if one.kind is one.KEYWORD_ONLY} | found
        types = get_type_hints(vars(each)["__init__"]) | types
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break  # nothing is passed on to the class above
    found.pop("sides", None)
    return {name: types.get(name, Any) for name in found}, {
        name for name, one in found.items() if one.default is one.empty
    }
