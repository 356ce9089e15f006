"""What a rationale says, and how a person writes it down: options, TOML or JSON."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reland_features.errors import PoolError


@dataclass(frozen=True)
class Words:
    """What a rationale says: Step 1, and the categories and titles of Step 2."""

    summary: str
    categories: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


def edited(
    words: Words,
    summary: str | None = None,
    categories: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
) -> Words:
    """Change the parts that are given."""
    return Words(
        words.summary if summary is None else summary,
        words.categories if categories is None else tuple(categories),
        words.items if items is None else tuple(items),
    )


def to_text(words: Words) -> str:
    """Return words as TOML, for an editor."""
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in asdict(words).items()]
    return "# Titles and categories are those of the catalogue. Save and close; change nothing to leave it be.\n" + (
        "\n".join(lines) + "\n"
    )


def from_file(path: Path, words: Words) -> Words:
    """Read words from a TOML or JSON file; see `from_text`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PoolError("the file cannot be read", where=str(path), got=error) from error
    return from_text(text, words, where=str(path))


def from_text(text: str, words: Words, where: str) -> Words:
    """Read words from TOML or JSON; what is not named stays as in `words`.

    Raises
    ------
    PoolError
        It is neither, or has other keys or types.
    """
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise PoolError("this is neither TOML nor JSON", where=where, got=error) from error
    lists = [values.get(name) for name in ("categories", "items")]  # an empty one was emptied, None was not named
    is_typed = isinstance(values.get("summary", ""), str) and all(
        names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)) for names in lists
    )
    if set(values) - {"summary", "categories", "items"} or not is_typed:
        raise PoolError(
            "these are not the words of a rationale",
            where=where,
            got=", ".join(values),
            expected='summary = "...", categories = ["..."], items = ["..."]',
        )
    return edited(words, values.get("summary"), *lists)
