"""Behaviour encoders: `lightgcn`, `sasrec`, or a user's own as ``package.module:Class``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import polars as pl

from reland_features.config import Encoder
from reland_features.encoders.base import BehaviorEncoder, BehaviorVectors, ReusableEncoder
from reland_features.errors import ConfigError

__all__ = ["BehaviorEncoder", "BehaviorVectors", "ReusableEncoder", "build", "is_reusable", "validate"]

_ENCODERS = {
    "lightgcn": "reland_features.encoders.lightgcn:LightGCN",
    "sasrec": "reland_features.encoders.sasrec:SASRec",
}


def build(settings: Encoder, seed: int) -> BehaviorEncoder:
    """Construct the configured encoder as ``Class(dimension=..., seed=..., **options)``.

    A user's own module is looked for where Python looks and in the current folder.

    Raises
    ------
    ConfigError
        The name is unknown, cannot be imported or is no encoder, or an option is.
    """
    made = _load(settings.name)
    arguments: dict[str, Any] = {"dimension": settings.dimension, "seed": seed, **settings.options}
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        known = [name for name in inspect.signature(made).parameters if name not in ("dimension", "seed")]
        raise ConfigError(
            "the encoder does not take these options",
            where=f"encoder.options of {settings.name!r}",
            got=f"{error}",
            expected=f"dimension, seed and options out of: {', '.join(known) or 'none'}",
            hint="change encoder.options in reland.toml",
        ) from error
    encoder = made(**arguments)
    if not isinstance(encoder, BehaviorEncoder):
        raise ConfigError(
            "this class is no behaviour encoder",
            where=f"encoder.name = {settings.name!r}",
            got=f"an object of {type(encoder).__name__} without encoder_id or encode",
            expected="encoder_id (str) and encode(interactions, as_of) -> BehaviorVectors",
            hint="see reland_features/encoders/base.py",
        )
    return encoder


def is_reusable(encoder: BehaviorEncoder) -> TypeGuard[ReusableEncoder]:
    """Say whether an encoder keeps its fit; methods of those names that take something else are not meant."""
    if not isinstance(encoder, ReusableEncoder):
        return False
    try:
        inspect.signature(encoder.save).bind(None)
        inspect.signature(encoder.transform).bind(None, None, None)
    except TypeError:
        return False
    return True


def validate(vectors: BehaviorVectors) -> BehaviorVectors:
    """Return the vectors as contiguous float32, or say what is wrong with them.

    Raises
    ------
    ConfigError
        An encoder did not keep its contract: wrong type, shape or user ids, NaN or infinity, or a zero row,
        which has no direction and so no most similar seed.
    """
    if not isinstance(vectors, BehaviorVectors):
        raise _broken("encoder", "the result is no BehaviorVectors", type(vectors).__name__, "BehaviorVectors")
    where, values, users = f"encoder {vectors.encoder_id}", vectors.vectors, vectors.user_ids
    if not isinstance(vectors.encoder_id, str) or not vectors.encoder_id:
        raise _broken(where, "encoder_id is not a text", repr(vectors.encoder_id), "a name with every parameter")
    if not isinstance(users, pl.Series):
        raise _broken(where, "user_ids are wrong", type(users).__name__, "a polars Series")
    if users.dtype != pl.String or users.null_count() or users.n_unique() < len(users):
        got = f"{users.dtype}, {len(users)} ids, {users.n_unique()} distinct, {users.null_count()} null"
        raise _broken(where, "user_ids are wrong", got, "distinct strings")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise _broken(where, "vectors are wrong", got, "a float32 array of shape [users, dimension]")
    if len(values) != len(users) or values.shape[1] == 0:
        raise _broken(
            where, "vectors have the wrong shape", values.shape, f"({len(users)}, dimension), one row per user"
        )
    values = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        first = users[int(np.argmin(finite))]
        got = f"{int((~finite).sum())} of {len(users)} rows, the first of user {first!r}"
        raise _broken(where, "vectors hold NaN or infinity", got, "finite numbers")
    zero = ~values.any(axis=1)
    if zero.any():
        got = f"{int(zero.sum())} of {len(users)} rows, the first of user {users[int(np.argmax(zero))]!r}"
        raise _broken(where, "vectors hold zero rows", got, "a direction for every user; leave out users without one")
    return replace(vectors, vectors=values)


def _load(name: str) -> Any:
    path = _ENCODERS.get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not (colon and module_name and class_name):
        near = difflib.get_close_matches(name, _ENCODERS, n=1)
        raise ConfigError(
            "unknown behaviour encoder",
            where="encoder.name",
            got=repr(name),
            expected=f"{', '.join(_ENCODERS)} or package.module:Class",
            hint=f"--set encoder.name={near[0] if near else 'lightgcn'}",
        )
    here = str(Path.cwd())
    sys.path.append(here)  # a module beside reland.toml is found, after everything installed
    try:
        made = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "the behaviour encoder cannot be imported",
            where=f"encoder.name = {name!r}",
            got=f"{type(error).__name__}: {error}",
            expected="package.module:Class, installed or in the current folder",
            hint=f"python -c 'from {module_name} import {class_name}'",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(made):
        raise ConfigError(
            "this is no class",
            where=f"encoder.name = {name!r}",
            got=type(made).__name__,
            expected="package.module:Class",
        )
    return made


def _broken(where: str, what: str, got: object, expected: str) -> ConfigError:
    return ConfigError(what, where=where, got=got, expected=expected, hint="see reland_features/encoders/base.py")
