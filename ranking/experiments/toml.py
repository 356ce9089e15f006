"""Write plain values as TOML; the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dumps(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested mappings of strings, numbers, booleans and lists of these as TOML; None is left out."""
    own = {key: value for key, value in values.items() if not isinstance(value, Mapping) and value is not None}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in own.items()]
    text = (f"[{prefix}]\n" if prefix and (own or not values) else "") + "".join(f"{line}\n" for line in lines)
    for key, value in values.items():
        if isinstance(value, Mapping):
            text += ("\n" if text else "") + dumps(value, f"{prefix}.{_key(key)}" if prefix else _key(key))
    return text


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _json(key)


def _value(value: Any) -> str:
    # A JSON string, number or list of them is one in TOML too; `repr` keeps inf and 1e-3 as TOML writes them.
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return repr(value) if isinstance(value, float) else _json(value)


def _json(value: Any) -> str:
    # Not ASCII: JSON escapes what is beyond U+FFFF as two surrogates, which TOML refuses. Nor may DEL stand as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
