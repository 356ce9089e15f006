"""Read an LLM's answer: the Step 1 sentence and the Step 2 categories and titles that the catalogue knows."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reland_features.prompts.catalogue import Catalogue
from reland_features.prompts.grounding import Finder, ground_all
from reland_features.prompts.text import fold

_CATEGORY_WORDS = ("categories", "category", "genres", "genre")
_ITEM_WORDS = ("items", "movies", "films", "products", "titles", "recommendations", "recommended")


@dataclass(frozen=True)
class ParsedRationale:
    """A rationale as read; `reason` is empty exactly when it is usable.

    `items` are titles as the items table has them; `ungrounded` is what the answer names that the
    catalogue does not know (at most five are kept, for the reason).
    """

    summary: str
    categories: tuple[str, ...]
    items: tuple[str, ...]
    reason: str = ""
    ungrounded: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Return ``ok`` or ``invalid``."""
        return "invalid" if self.reason else "ok"


@dataclass(frozen=True)
class AnswerReader:
    """Find the parts of an answer by a template's labels.

    Reads the asked layout and what strong LLMs write instead: everything on one line, bold, bullets,
    headings, comma-separated lists, remarks after titles, JSON, a ``<think>`` block in front.

    Parameters
    ----------
    summary, answer, categories, items : str
        Labels, for example ``Step 1:``, ``Step 2:``, ``Categories:``, ``Movies:``.
    """

    summary: str
    answer: str
    categories: str
    items: str

    def read(
        self,
        text: str,
        catalogue: Catalogue,
        banned: Collection[str] = (),
        n_categories: int | None = None,
        n_items: int | None = None,
    ) -> ParsedRationale:
        """Ground an answer in a catalogue.

        Parameters
        ----------
        text : str
            The raw answer.
        catalogue : Catalogue
            What categories and titles may refer to; other names are dropped.
        banned : collection of str
            Titles (as in `catalogue.titles`) that do not count: the history.
        n_categories, n_items : int, optional
            Keep at most so many, the first ones.
        """
        parts = _from_json(text) or self._from_text(text)
        summary = _sentence(_plain(parts.summary))
        missed: list[str] = []
        categories = list(ground_all(parts.categories, _category_finder(catalogue), missed))
        items = list(ground_all(parts.items, _title_finder(catalogue, frozenset(banned)), missed))
        names = tuple(dict.fromkeys(name for found in categories for name in found))[:n_categories]
        titles = tuple(dict.fromkeys(title for found in items for title in found))[:n_items]
        ungrounded = tuple(dict.fromkeys(missed))[:5]
        reason = _reason(text, summary, names or not catalogue.categories, titles, ungrounded)
        return ParsedRationale(summary, names, titles, reason, ungrounded)

    def read_step1(self, text: str) -> ParsedRationale:
        """Read an answer for its Step 1 alone; a text that names no step is one as a whole."""
        parts = _from_json(text) or (self._from_text(text) if self._names_steps(text) else None)
        summary = _sentence(parts.summary if parts else _plain(text))
        return ParsedRationale(summary, (), (), _reason(text, summary, True, True, ()))

    def has_step2(self, text: str) -> bool:
        """Say whether an answer has a place where it recommends something, known to a catalogue or not."""
        if parts := _from_json(text) or (self._from_text(text) if self._names_steps(text) else None):
            return bool(parts.items.strip())
        # In a text that names no step, the loosest form of a label is any sentence about films with a colon.
        return _first(_plain(text), self._labels["items"][:-1], 0) is not None

    def _names_steps(self, text: str) -> bool:
        return any(_first(_plain(text), self._labels[step], 0) for step in ("summary", "answer"))

    def _from_text(self, text: str) -> _Parts:
        text = _plain(text)
        step1 = _first(text, self._labels["summary"], 0)
        step2 = _first(text, self._labels["answer"], step1[1] if step1 else 0)
        body = step2[1] if step2 else step1[1] if step1 else 0
        categories = _first(text, self._labels["categories"], body)
        # Below the categories first: the sentence above the lists may end in "3 categories and 3 movies:".
        labels = self._labels["items"]
        items = (_first(text, labels, categories[1]) if categories else None) or _first(text, labels, body)
        if categories is None and items is None:
            both = text[step2[1] :] if step2 else ""
            return _Parts(text[step1[1] if step1 else 0 : step2[0] if step2 else None], both, both)
        starts = [found[0] for found in (step2, categories, items) if found]
        return _Parts(
            text[step1[1] if step1 else 0 : min(starts)],
            _section(text, categories, items),
            _section(text, items, categories),
        )

    @cached_property
    def _labels(self) -> dict[str, tuple[re.Pattern[str], ...]]:
        def words(label: str, more: tuple[str, ...] = ()) -> str:
            stem = label.strip().rstrip(":").strip()
            return "|".join(r"\s*".join(re.escape(word) for word in name.split()) for name in (stem, *more))

        step1, step2 = words(self.summary), words(self.answer)
        named = {"categories": words(self.categories, _CATEGORY_WORDS), "items": words(self.items, _ITEM_WORDS)}
        # From the strictest form to the loosest: a sentence may well hold the words "three movies".
        return {
            **{
                name: (
                    re.compile(rf"(?im)^[^\w\n]*(?:{step})\b[ \t\"]*[:.)–-]*"),
                    re.compile(rf"(?i)\b(?:{step})\b\s*[:.–-]+"),
                )
                for name, step in (("summary", step1), ("answer", step2))
            },
            **{
                name: (
                    re.compile(rf"(?im)^[^\w\n]*(?:\d+\s+)?(?:{word})\"?[ \t]*:"),
                    re.compile(rf"(?im)^[^\w\n]*(?:\d+\s+|\w+\s+)?(?:{word})[^\w\n]*$"),
                    re.compile(rf"(?i)(?:\b\d+\s+)?\b(?:{word})\"?\s*:"),
                    re.compile(rf"(?im)^[^\n:]*\b(?:{word})\b[^:\n]{{0,60}}:"),
                )
                for name, word in named.items()
            },
        }


@dataclass(frozen=True)
class _Parts:
    summary: str = ""
    categories: str = ""
    items: str = ""


def _plain(text: str) -> str:
    """Remove a reasoning model's thoughts and Markdown; bold becomes quotes, which delimit names."""
    text = re.sub(r"(?is)<think>.*?</think>|^.*?</think>", " ", text)
    text = re.sub(r"\*\*(.+?)\*\*|__(.+?)__", lambda m: f'"{m[1] or m[2]}"', text)
    return re.sub(r"(?m)^\s*#{1,6}\s*|^\s*```\w*\s*$|`", "", text).replace("：", ":")


def _sentence(text: str) -> str:
    """Put a Step 1 on one line."""
    return " ".join(text.split()).strip(" \"'“”*_")


def _first(text: str, patterns: tuple[re.Pattern[str], ...], start: int) -> tuple[int, int] | None:
    for pattern in patterns:
        if match := pattern.search(text, start):
            return match.span()
    return None


def _section(text: str, own: tuple[int, int] | None, other: tuple[int, int] | None) -> str:
    if own is None:
        return ""
    return text[own[1] : other[0] if other and other[0] >= own[1] else None]


def _category_finder(catalogue: Catalogue) -> Finder:
    """Return a finder of one category."""

    def find(text: str) -> tuple[str, ...] | None:
        name = catalogue.find_category(text) or catalogue.find_category(re.sub(r"(?i)^(?:and|or)\s+", "", text))
        return None if name is None else (name,)

    return find


def _title_finder(catalogue: Catalogue, banned: frozenset[str]) -> Finder:
    """Return a finder of one title; `banned` titles are found, but do not count."""

    def find(text: str) -> tuple[str, ...] | None:
        titles = catalogue.find_titles(text)
        if not titles:
            return None
        # A name that may mean a title of the history is taken to mean it.
        return () if banned.intersection(titles) else titles[:1]

    return find


def _from_json(text: str) -> _Parts | None:
    """Read an answer that is a JSON object, bare or fenced; None if it is none."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        value = json.loads(text[start : end + 1])
    except json.JSONDecodeError:
        return None  # prose with braces; it is read as text
    found: dict[str, list[str]] = {"summary": [], "categories": [], "items": []}
    _collect(value, found)
    if not any(found.values()):
        return None
    return _Parts(" ".join(found["summary"]), "\n".join(found["categories"]), "\n".join(found["items"]))


def _collect(value: Any, found: dict[str, list[str]]) -> None:
    for key, content in value.items() if isinstance(value, dict) else ():
        name = fold(str(key)).replace(" ", "")
        if isinstance(content, dict):
            _collect(content, found)
        elif any(word in name for word in _CATEGORY_WORDS):
            found["categories"] += _names(content)
        elif any(word in name for word in (*_ITEM_WORDS, "title")):
            found["items"] += _names(content)
        elif isinstance(content, str) and any(word in name for word in ("summary", "step1", "preference")):
            found["summary"].append(content)


def _names(content: Any) -> list[str]:
    values = content if isinstance(content, list) else [content]
    named = [_name(value) if isinstance(value, dict) else value for value in values]
    return [" ".join(str(name).split()) for name in named]


def _name(value: dict[str, Any]) -> Any:
    return next((value[key] for key in ("title", "name", "item", "movie", "product") if key in value), "")


def _reason(text: str, summary: str, has_category: object, titles: object, ungrounded: tuple[str, ...]) -> str:
    if not text.strip():
        return "the answer is empty"
    problems = []
    if not any(character.isalpha() for character in summary):
        problems.append("no Step 1 sentence")
    if not has_category:
        problems.append("no category of the catalogue")
    if not titles:
        problems.append("no title of the catalogue outside the history")
    named = f" (not in the catalogue: {'; '.join(ungrounded)})" if problems and ungrounded else ""
    return "; ".join(problems) + named
