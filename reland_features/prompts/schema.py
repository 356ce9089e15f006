"""What a prompt template's TOML file must hold."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from reland_features.errors import ConfigError

_SLOTS = ("history", "n_categories", "n_items")
_TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # key: (slots it needs, slots it may have)
    "system": ((), ("n_categories", "n_items")),
    "user": (_SLOTS, _SLOTS),
    "user_items_only": (("history", "n_items"), ("history", "n_items")),
    "item_format": (("title",), ("title", "categories")),
}
_REQUIRED = ("system", "user", "item_format")
LABELS = ("summary", "answer", "categories", "items")
_STEP0 = {"max_title_chars": int, "max_categories": int, "drop_patterns": list}
_KEYS = (
    "name",
    *_TEXTS,
    "item_separator",
    "category_separator",
    "summary_start",
    "summary_max_tokens",
    "labels",
    "step0",
    "condense",
    "examples",
)
_EXAMPLE = {"history": list, "summary": str, "categories": list, "items": list}


def check(values: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` naming file and slot unless these are the values of a prompt template."""
    for key in values:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise ConfigError(
                f"a prompt template has an unknown key {key!r}",
                where=where,
                expected=f"one of {', '.join(_KEYS)}",
                hint=f"did you mean {near[0]!r}?" if near else f"remove {key!r}",
            )
    for key in _REQUIRED:
        if key not in values:
            raise ConfigError(f"a prompt template lacks {key!r}", where=where, hint=f'add {key} = "..." at its top')
    _check_type(values, "item_separator", str, where)
    _check_type(values, "category_separator", str, where)
    _check_type(values, "name", str, where)
    _check_type(values, "summary_start", str, where)
    _check_type(values, "summary_max_tokens", int, where)
    _check_type(values, "condense", dict, where)
    _check_type(values, "examples", list, where)
    for key, (needed, allowed) in _TEXTS.items():
        if key in values:
            _check_type(values, key, str, where)
            _check_slots(values[key], key, needed, allowed, where)
    _check_labels(values.get("labels", {}), where)
    _check_step0(values.get("step0", {}), where)
    _check_condense(values.get("condense", {}), f"{where}, [condense]")
    _check_examples(values.get("examples", []), where)


def _check_slots(text: str, key: str, needed: Sequence[str], allowed: Sequence[str], where: str) -> None:
    where = f"{where}, {key}"
    try:
        slots = [slot for _, slot, _, _ in string.Formatter().parse(text) if slot is not None]
    except ValueError as error:
        raise ConfigError(
            "a prompt template has a brace that is no slot", where=where, got=error, hint="write {{ and }} for braces"
        ) from error
    for slot in slots:
        if slot not in allowed:
            raise ConfigError(
                f"a prompt template has an unknown slot {{{slot}}}",
                where=where,
                expected=f"one of {', '.join(f'{{{name}}}' for name in allowed)}",
                hint="rename it, or write {{ and }} for braces that are text",
            )
    for slot in needed:
        if slot not in slots:
            raise ConfigError(
                f"a prompt template lacks the slot {{{slot}}}",
                where=where,
                got=f"{', '.join(f'{{{name}}}' for name in slots)}" or "no slot",
                expected=f"{', '.join(f'{{{name}}}' for name in allowed)}",
                hint=f"add {{{slot}}} to {key}",
            )


def _check_labels(labels: Any, where: str) -> None:
    for key in LABELS:
        if not isinstance(labels, dict) or not isinstance(labels.get(key), str) or not labels[key].strip(" :"):
            raise ConfigError(
                f"a prompt template lacks the label {key!r}",
                where=f"{where}, [labels]",
                hint=f'add {key} = "..." below [labels], the words that this part of an answer begins with',
            )
    if unknown := set(labels) - set(LABELS):
        raise ConfigError(
            f"a prompt template has an unknown label {min(unknown)!r}", where=where, expected=", ".join(LABELS)
        )


def _check_step0(step0: Any, where: str) -> None:
    where = f"{where}, [step0]"
    for key, value in step0.items():
        if key not in _STEP0:
            raise ConfigError(f"a prompt template has an unknown key {key!r}", where=where, expected=", ".join(_STEP0))
        _check_type(step0, key, _STEP0[key], where)
        if _STEP0[key] is int and value < 1:
            raise ConfigError(f"{key} is wrong", where=where, got=value, expected="at least 1")
    _check_patterns(step0.get("drop_patterns", []), "drop_patterns", where)


def _check_patterns(patterns: Sequence[Any], key: str, where: str) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"{key} holds what is no regular expression", where=where, got=f"{pattern!r}: {error}"
            ) from error


def _check_condense(condense: Any, where: str) -> None:
    for key in condense:
        if key not in ("patterns", "left_out"):
            raise ConfigError(
                f"a prompt template has an unknown key {key!r}", where=where, expected="patterns, left_out"
            )
    _check_type(condense, "patterns", list, where)
    _check_type(condense, "left_out", str, where)
    _check_patterns(condense.get("patterns", []), "patterns", where)
    if "left_out" in condense:
        _check_slots(condense["left_out"], "left_out", ("n_left_out",), ("n_left_out",), where)


def _check_examples(examples: Any, where: str) -> None:
    for number, example in enumerate(examples, 1):
        place = f"{where}, [[examples]] number {number}"
        if unknown := set(example) - set(_EXAMPLE):
            raise ConfigError(
                f"an example has an unknown key {min(unknown)!r}", where=place, expected=", ".join(_EXAMPLE)
            )
        for key, kind in _EXAMPLE.items():
            _check_type(example, key, kind, place)
            if not example.get(key) and key != "categories":
                raise ConfigError(f"an example lacks {key!r}", where=place, hint=f"add {key} = ...")
            if kind is list and not all(isinstance(text, str) for text in example.get(key, [])):
                raise ConfigError(f"{key} of an example holds what is no text", where=place, got=repr(example[key]))


def _check_type(values: Mapping[str, Any], key: str, kind: type, where: str) -> None:
    if key in values and (not isinstance(values[key], kind) or isinstance(values[key], bool)):
        raise ConfigError(f"{key} is of a wrong type", where=where, got=repr(values[key]), expected=kind.__name__)
