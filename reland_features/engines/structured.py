"""A skeleton as a JSON schema, for engines that hold an answer to one, and the answer's text from the JSON.

The text is laid out as skeleton decoding (`engines.constraint`) would have written it, so that whoever reads
answers sees one layout. A schema cannot say that two slots differ: readers still check that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from reland_features.errors import EngineError
from reland_features.skeleton import Choice, Fixed, Free, Options, Skeleton

MAX_ENUM = 250  # OpenAI limits the characters of longer enumerations, and grammars of many values compile slowly


def json_schema(skeleton: Skeleton, options: Options) -> dict[str, Any]:
    """Return the schema of an object with one required string per slot, in order.

    A choice of at most `MAX_ENUM` options is an enumeration without its banned ones; of more, any string.

    Raises
    ------
    EngineError
        An option set is unknown, or every option of a choice is banned.
    """
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, label, slot in _slots(skeleton):
        if isinstance(slot, Free):
            properties[name] = {"type": "string", "description": f"one line that continues: {label}"}
            continue
        if slot.options not in options:
            known = ", ".join(options) or "no option set"
            raise EngineError("the skeleton names an unknown option set", got=slot.options, expected=known)
        # One more than can be listed will do: ledger keys need the schema of every seed, of any catalogue.
        unbanned = (option for option in options[slot.options] if option not in slot.banned)
        allowed = list(islice(unbanned, MAX_ENUM + 1))
        if not allowed:
            raise EngineError("every option of a choice is banned or taken", where=f"option set {slot.options!r}")
        value = {"type": "string", "enum": allowed} if len(allowed) <= MAX_ENUM else {"type": "string"}
        # Slots of one set share a definition: limits count its values once.
        definition = next((key for key, known in definitions.items() if known == value), None)
        if definition is None:
            definition = slot.options if slot.options not in definitions else name
            definitions[definition] = value
        properties[name] = {"$ref": f"#/$defs/{definition}"}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return schema | ({"$defs": definitions} if definitions else {})


def answer_text(skeleton: Skeleton, reply: str) -> str | None:
    """Write a reply that follows `json_schema` in the skeleton's layout; None where it does not follow it."""
    try:
        values = json.loads(reply)
    except json.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not all(isinstance(values.get(name), str) for name, _, _ in _slots(skeleton)):
        return None
    slots = _slots(skeleton)
    text = ""
    for part in skeleton:
        if isinstance(part, Fixed):
            text += part.text
            continue
        name, label, _ = next(slots)
        value = " ".join(values[name].split())
        start = label.rpartition(":")[2].strip()
        if isinstance(part, Free) and start and value.lower().startswith(start.lower()):
            value = value[len(start) :].lstrip()  # the model repeated the words that it was to continue
        text += ("" if not text or text[-1].isspace() else " ") + value + "\n"
    return text


def _slots(skeleton: Skeleton) -> Iterator[tuple[str, str, Free | Choice]]:
    """Yield (name of the JSON key, fixed text in front, slot)."""
    label, seen = "", set[str]()
    for part in skeleton:
        if isinstance(part, Fixed):
            label = part.text
            continue
        stem = part.options if isinstance(part, Choice) else re.sub(r"\W+", "_", label.lower()).strip("_") or "text"
        numbers = range(1, len(skeleton) + 1)
        names = (
            (f"{stem}_{n}" for n in numbers) if isinstance(part, Choice) else (stem, *(f"{stem}_{n}" for n in numbers))
        )
        name = next(name for name in names if name not in seen)
        seen.add(name)
        yield name, label, part
        label = ""
