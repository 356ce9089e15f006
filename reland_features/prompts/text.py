"""Step 0 of the prompt: filter out noisy text before the LLM reads it (section 3.1.2)."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class HistoryItem:
    """One line of a history as the LLM sees it: a condensed title and its categories."""

    title: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step0:
    """Condense titles and categories.

    Parameters
    ----------
    max_title_chars : int
        Longest title shown, in characters; longer ones are cut at a word boundary.
    max_categories : int
        Most categories shown per item.
    drop_patterns : tuple of str
        Regular expressions whose matches are removed from titles, for example promotional copy.
    """

    max_title_chars: int = 80
    max_categories: int = 3
    drop_patterns: tuple[str, ...] = ()

    def title(self, title: str) -> str:
        """Return the shown form of a title: one line, without dropped patterns, not too long.

        A pattern that would leave nothing is not applied: an item is never shown without a name.
        """
        return shorten(without(self.drop_patterns, clean(html.unescape(title))), self.max_title_chars)

    def categories(self, categories: Iterable[str | None]) -> tuple[str, ...]:
        """Return the first `max_categories` distinct, non-empty categories, in order."""
        names = (clean(name) for name in categories if name)
        return tuple(dict.fromkeys(name for name in names if name))[: self.max_categories]


def clean(text: str) -> str:
    """Put a text on one line: every run of white space and control characters becomes one space."""
    return " ".join(re.sub(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]+", " ", text).split())


def without(patterns: Iterable[str], text: str) -> str:
    """Remove what regular expressions match; one that would leave nothing is not applied."""
    for pattern in patterns:
        text = clean(re.sub(pattern, " ", text)) or text
    return text


def shorten(text: str, limit: int) -> str:
    """Cut a text to at most `limit` characters, at a word boundary where there is one in its second half."""
    if len(text) <= limit:
        return text
    cut = text[: limit + 1].rfind(" ")
    return text[: cut if cut > limit // 2 else limit].rstrip(" ,;:-–(/&")


def fold(text: str) -> str:
    """Reduce a text to what people compare: lower case, no accents, no punctuation, single spaces."""
    text = unicodedata.normalize("NFKD", text.replace("&", " and "))
    text = re.sub(r"[\u0300-\u036f'’`´]", "", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", text).split())
