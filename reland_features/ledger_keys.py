"""Name LLM calls by all that an answer depends on: the keys of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reland_features.artifacts import content_id
from reland_features.skeleton import Choice, Fixed, Free, Skeleton


def request_key(
    engine_id: str,
    messages: Sequence[Mapping[Any, str]],
    parameters: Mapping[str, Any],
    max_tokens: int,
    skeleton_id: str = "",
    attempt: int = 1,
) -> str:
    """Hash all that an answer depends on; a second attempt at an unusable answer has a key of its own."""
    parts = [engine_id, [dict(m) for m in messages], dict(parameters), max_tokens, skeleton_id, attempt]
    return content_id(parts, length=32)


def skeleton_id(skeleton: Skeleton, options_id: str) -> str:
    """Hash the constraint of an answer: the skeleton with its banned sets, and the option sets' own hash."""
    return content_id([options_id, [_instruction(part) for part in skeleton]])


def schema_id(skeleton: Skeleton, schema: Mapping[str, Any]) -> str:
    """Hash the constraint of an answer that is held to a JSON schema: the schema as it is sent.

    The skeleton's fixed text is not sent, but an answer is laid out, and kept, in its words: it is part of the hash.
    """
    return content_id([schema, [part.text if isinstance(part, Fixed) else "" for part in skeleton]])


def _instruction(part: Fixed | Free | Choice) -> list[Any]:
    if isinstance(part, Fixed):
        return ["fixed", part.text]
    if isinstance(part, Free):
        return ["free", part.max_tokens, part.min_tokens]
    return ["choice", part.options, sorted(part.banned)]
