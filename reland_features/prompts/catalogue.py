"""The catalogue as the LLM meets it: what it may choose, and what its words refer to."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from reland_features.prompts.text import HistoryItem, Step0, clean, fold, shorten
from reland_features.skeleton import Options

CATEGORIES = "categories"
ITEMS = "items"
_YEAR = re.compile(r"\(\s*(\d{4})\s*\)")
_PARENTHESES = re.compile(r"\s*[(\[][^()\[\]]*[)\]]\s*$")
_ARTICLES = {"the", "a", "an", "le", "la", "les", "il", "der", "die", "das", "el", "los", "las"}


@dataclass(frozen=True)
class Catalogue:
    """Titles and categories of the items table, in the form they are shown, and the way back.

    Parameters
    ----------
    titles : tuple of str
        Distinct titles as the items table has them, sorted.
    shown : tuple of str
        Condensed titles (Step 0), all different, in the order of `titles`.
    categories : tuple of str
        Distinct categories, sorted; may be empty.
    items : mapping
        Shown title and capped categories by `item_id`; items without a title are not in it.
    popularity : tuple of int
        Interactions by title: among titles of the same name the popular one is meant.
    """

    titles: tuple[str, ...]
    shown: tuple[str, ...]
    categories: tuple[str, ...]
    items: Mapping[str, HistoryItem]
    popularity: tuple[int, ...]

    @classmethod
    def from_items(cls, items: pl.DataFrame, step0: Step0 | None = None) -> Catalogue:
        """Read a frame with `item_id`, `title`, `categories` and maybe `interaction_count` (`columns.ITEMS`)."""
        step0 = step0 or Step0()
        counts = items["interaction_count"] if "interaction_count" in items.columns else [0] * items.height
        popularity: dict[str, int] = {}
        rows = list(zip(items["item_id"], items["title"], items["categories"], counts, strict=True))
        for _, title, _, count in rows:
            if title is not None and clean(title):
                popularity[title] = popularity.get(title, 0) + (count or 0)
        titles = tuple(sorted(popularity))
        shown = _distinct(titles, step0)
        of_title = dict(zip(titles, shown, strict=True))
        lines = {
            item_id: HistoryItem(of_title[title], step0.categories([] if names is None else names))
            for item_id, title, names, _ in rows
            if title in of_title
        }
        names = {clean(name) for _, _, names, _ in rows for name in ([] if names is None else names) if name}
        return cls(titles, shown, tuple(sorted(names - {""})), lines, tuple(popularity[title] for title in titles))

    def options(self) -> Options:
        """Return the option sets of the skeleton's choices; a set without options is left out."""
        return {name: values for name, values in ((CATEGORIES, self.categories), (ITEMS, self.shown)) if values}

    def find_category(self, text: str) -> str | None:
        """Return the category a text names, or None: case, punctuation and a plural s do not matter."""
        if text in self._category_set:
            return text
        folded = fold(text)
        index = self._category_index
        return index.get(folded) or index.get(folded.removesuffix("s")) or index.get(folded + "s") if folded else None

    def find_titles(self, text: str) -> tuple[str, ...]:
        """Return the titles a text may refer to, the most popular first; empty if it is not in the catalogue.

        A shown or full title as it stands is that title alone. Otherwise case, punctuation, accents, a leading
        or trailing article and remarks in trailing parentheses do not matter; a year does if both sides have
        one and they are more than one apart (a remake is another film).
        """
        text = clean(text)
        if (exact := self._exact.get(text)) is not None:
            return (self.titles[exact],)
        found = self._folded.get(fold(text)) or next(
            (rows for key in title_keys(text) if (rows := self._named.get(key))), ()
        )
        year = year_of(text)
        if year is not None:
            of_year = [n for n in found if (known := year_of(self.titles[n])) is None or abs(known - year) <= 1]
            found = tuple(sorted(of_year, key=lambda n: abs((year_of(self.titles[n]) or year + 1) - year)))
        return tuple(self.titles[n] for n in found)

    @cached_property
    def _exact(self) -> dict[str, int]:
        full = {clean(title): n for n, title in enumerate(self.titles)}
        return full | {name: n for n, name in enumerate(self.shown)}

    @cached_property
    def _folded(self) -> dict[str, tuple[int, ...]]:
        return self._index(lambda title, shown: (fold(title), fold(shown)))

    @cached_property
    def _named(self) -> dict[str, tuple[int, ...]]:
        return self._index(lambda title, shown: (*title_keys(title), *title_keys(shown), *_other_names(title)))

    def _index(self, keys: Callable[[str, str], Iterable[str]]) -> dict[str, tuple[int, ...]]:
        index: dict[str, dict[int, None]] = {}
        for n in sorted(range(len(self.titles)), key=lambda n: (-self.popularity[n], n)):
            for key in keys(self.titles[n], self.shown[n]):
                if key:
                    index.setdefault(key, {})[n] = None
        return {key: tuple(rows) for key, rows in index.items()}

    @cached_property
    def _category_set(self) -> frozenset[str]:
        return frozenset(self.categories)

    @cached_property
    def _category_index(self) -> dict[str, str]:
        return {fold(name): name for name in reversed(self.categories) if fold(name)}


def year_of(title: str) -> int | None:
    """Return the year that stands in parentheses at the end of a title, or None."""
    years = _YEAR.findall(title)
    return int(years[-1]) if years else None


def title_keys(title: str) -> tuple[str, ...]:
    """Return folded names of a title without year and article: with and without its trailing parentheses."""
    named = _YEAR.sub(" ", title).strip()
    bare = named
    while (shorter := _PARENTHESES.sub("", bare)) != bare and shorter:
        bare = shorter
    return tuple(dict.fromkeys(key for key in (_without_article(named), _without_article(bare)) if key))


def _other_names(title: str) -> tuple[str, ...]:
    """Return folded names given in parentheses: "Seventh Seal, The (Sjunde inseglet, Det) (1957)"."""
    inner = re.findall(r"\(([^()]+)\)", _YEAR.sub(" ", title))
    return tuple(_without_article(re.sub(r"(?i)^a\.?k\.?a\.?\s+", "", name)) for name in inner if len(name) > 3)


def _without_article(title: str) -> str:
    head, comma, tail = title.rpartition(",")
    if comma and fold(tail) in _ARTICLES:
        title = head
    words = fold(title).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)


def _distinct(titles: Iterable[str], step0: Step0) -> tuple[str, ...]:
    """Condense titles so that all differ: where two fall together, less is dropped, then numbers are added."""
    titles = tuple(titles)
    first = [step0.title(title) for title in titles]
    counts: dict[str, int] = {}
    for name in first:
        counts[name] = counts.get(name, 0) + 1
    taken = {name for name in first if counts[name] == 1}
    shown = []
    for title, name in zip(titles, first, strict=True):
        if counts[name] > 1:
            name = stem = shorten(clean(html.unescape(title)), step0.max_title_chars)
            number = 1
            while name in taken:
                number += 1
                suffix = f" #{number}"
                name = shorten(stem, max(1, step0.max_title_chars - len(suffix))) + suffix
            taken.add(name)
        shown.append(name)
    return tuple(shown)
