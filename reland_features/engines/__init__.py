"""LLM engines: `build` makes the one that the configuration names."""

from __future__ import annotations

import difflib
import importlib
import inspect
from functools import partial
from pathlib import Path
from typing import Any

from reland_features.config import Rationales
from reland_features.engines.base import Completion, Engine, Message, Request
from reland_features.errors import ConfigError

__all__ = ["Completion", "Engine", "Message", "Request", "build"]

_BUILT_IN = {
    "hf": "reland_features.engines.hf:HFEngine",
    "openai": "reland_features.engines.openai:OpenAIEngine",
    "vllm": "reland_features.engines.vllm:VLLMEngine",
    "dummy": "reland_features.engines.dummy:DummyEngine",
}
_EXTRAS = {"hf": "models", "openai": "openai", "vllm": "vllm"}


def build(settings: Rationales, cache: Path) -> Engine:
    """Make the engine of `rationales.engine`: hf, openai, vllm, dummy or ``package.module:Class``.

    A class of your own is called as ``Class(model, revision=..., batch_size=..., cache=..., **options)``;
    of the first three it gets those that its signature has. With a table ``rationales.ray`` it runs on Ray's
    workers.

    Parameters
    ----------
    settings : config.Rationales
        `engine`, `model`, `revision`, `batch_size`, the engine's own `options`, and `ray`.
    cache : Path
        Where model weights are kept.

    Raises
    ------
    ConfigError
        There is no such engine, a module that it needs is not installed, or an option is unknown.
    """
    make = _load(settings.engine)
    known = inspect.signature(make).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    own = {name for name, p in known.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    given: dict[str, Any] = {"revision": settings.revision, "batch_size": settings.batch_size, "cache": cache}
    names = sorted(own - {"model", *given})
    for name in settings.options:
        if name in ("model", *given) or (name not in own and not takes_any):
            near = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"engine {settings.engine!r} has no option {name!r}",
                where=f"rationales.options.{name}",
                expected=f"one of {', '.join(names)}" if names else "no options",
                hint=f"did you mean {near[0]!r}?" if near else "remove it",
            )
    passed = {name: value for name, value in given.items() if name in own or takes_any}
    whole: partial[Engine] = partial(make, settings.model, **passed, **settings.options)
    if settings.ray is None:
        return whole()
    from reland_features.engines.ray import RayEngine

    return RayEngine(whole, **settings.ray.model_dump())


def _load(name: str) -> Any:
    target = _BUILT_IN.get(name, name)
    module, colon, attribute = target.partition(":")
    if not (colon and module and attribute):
        near = difflib.get_close_matches(name, (*_BUILT_IN, "imported"), n=1)
        raise ConfigError(
            f"unknown engine {name!r}",
            where="rationales.engine",
            expected=f"{', '.join(_BUILT_IN)}, imported or package.module:Class",
            hint=f"did you mean {near[0]!r}?" if near else "name one of them",
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(name, "")
        raise ConfigError(
            f"engine {name!r} needs a module that is not installed",
            where="rationales.engine",
            got=error,
            hint=f"pip install 'reland-features[{extra}]'" if extra else "install the package that holds it",
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"the module of engine {name!r} has no such class", where="rationales.engine", got=error
        ) from error
