"""Read `reland.toml`; what may stand in it is in `reland_features.settings`.

Unknown keys are errors with the nearest known name; all problems are reported at once.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from reland_features.errors import CheckError, ConfigError
from reland_features.settings import (
    ColdStart,
    Columns,
    Condense,
    Config,
    Data,
    Encoder,
    Evaluation,
    Feast,
    ImpressionColumns,
    InteractionColumns,
    ItemColumns,
    Match,
    Pool,
    Rationales,
    Ray,
    Review,
    Section,
    Seeds,
    TextEncoder,
    Tuning,
    UserColumns,
)

__all__ = [
    "CONFIG_FILE",
    "ColdStart",
    "Columns",
    "Condense",
    "Config",
    "Data",
    "Encoder",
    "Evaluation",
    "Feast",
    "ImpressionColumns",
    "InteractionColumns",
    "ItemColumns",
    "Match",
    "Pool",
    "Rationales",
    "Ray",
    "Review",
    "Section",
    "Seeds",
    "TextEncoder",
    "Tuning",
    "UserColumns",
    "load",
    "parse",
]

CONFIG_FILE = "reland.toml"


def load(project: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a project's configuration.

    Parameters
    ----------
    project : Path
        Folder that holds `reland.toml`.
    overrides : iterable of str
        ``section.key=value``; the value is read as TOML, or as a string where it is not TOML.

    Raises
    ------
    ConfigError
        The file is not there, not TOML or not UTF-8.
    CheckError
        One problem per unknown key or wrong value.
    """
    path = project / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            "this folder is not a reland project",
            where=str(project),
            got=f"no {CONFIG_FILE}",
            hint="reland init DIR --interactions FILE --items FILE, then cd DIR",
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the configuration is not valid TOML", where=str(path), got=error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the configuration is not written in UTF-8, which TOML is",
            where=str(path),
            got=error,
            expected="UTF-8",
            hint=f"iconv -f LATIN1 -t UTF-8 {CONFIG_FILE} > new.toml, or save it as UTF-8 in your editor",
        ) from error
    for override in overrides:
        _set(values, override)
    return parse(values, where=str(path))


def parse(values: Mapping[str, Any], where: str = CONFIG_FILE) -> Config:
    """Validate configuration values; raise `CheckError` with one problem per key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_problem(dict(detail), where) for detail in error.errors()]
        raise CheckError(problems) from error


def assignment(text: str, option: str, example: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE`` of a command line's `option`: the value as TOML reads it, or else the text as it stands.

    Raises
    ------
    ConfigError
        There is no ``=`` or nothing before it; `example` is what is expected.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option} takes KEY=VALUE", where=option, got=text, expected=example)
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _set(values: dict[str, Any], override: str) -> None:
    key, value = assignment(override, "--set", "seeds.fraction=0.02")
    *path, last = key.split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError("--set names a key below a value", where=f"--set {override}", got=part)
    table[last] = value


def _problem(detail: dict[str, Any], where: str) -> ConfigError:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        return ConfigError(
            f"unknown configuration key {key!r}",
            where=where,
            got=location[-1],
            expected=f"one of {', '.join(known)}",
            hint=f"did you mean {'.'.join([*location[:-1], near[0]])!r}?" if near else f"remove {key!r}",
        )
    if detail["type"] == "missing":
        return ConfigError(f"configuration key {key!r} is missing", where=where, hint=f"add {key} to {where}")
    message = detail["msg"].removeprefix("Value error, ")
    return ConfigError(f"configuration key {key!r} is wrong", where=where, got=repr(detail["input"]), expected=message)


def _keys_at(location: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return sorted(model.model_fields)
