"""Load, render and read back a prompt template: Steps 0 to 2 of section 3.1.2."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from reland_features.artifacts import content_id
from reland_features.errors import ConfigError
from reland_features.prompts.catalogue import CATEGORIES, ITEMS, Catalogue
from reland_features.prompts.parsing import AnswerReader, ParsedRationale
from reland_features.prompts.schema import LABELS, check
from reland_features.prompts.text import HistoryItem, Step0, clean, shorten
from reland_features.skeleton import Choice, Fixed, Free, Skeleton

Message = dict[Literal["role", "content"], str]


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt template T.

    Parameters
    ----------
    name : str
        Domain, or the file's stem.
    system, user, user_items_only : str
        Messages with slots ``{history} {n_categories} {n_items}``; the last one is used where the
        catalogue has no categories.
    item_format : str
        One history item, with ``{title}`` and ``{categories}``.
    labels : mapping
        What the parts of an answer begin with: summary, answer, categories, items.
    step0 : Step0
        How titles are condensed.
    item_separator, category_separator : str
        Stand between two history items, and between two categories of an item.
    summary_start : str
        First words of a constrained answer's Step 1; they keep a small model from repeating the task.
    summary_max_tokens : int
        Longest Step 1 sentence of a constrained answer, in tokens.
    """

    name: str
    system: str
    user: str
    user_items_only: str
    item_format: str
    labels: Mapping[str, str]
    step0: Step0 = field(default_factory=Step0)
    item_separator: str = "; "
    category_separator: str = ", "
    summary_start: str = ""
    summary_max_tokens: int = 48

    @classmethod
    def load(cls, name_or_path: str | Path, base: Path | None = None) -> PromptTemplate:
        """Load a packaged domain (movies, products, generic) or a TOML file, relative to `base`.

        Raises
        ------
        ConfigError
            There is no such domain or file; a key or slot is missing, unknown or of a wrong type.
        """
        packaged = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}
        path = packaged.get(str(name_or_path)) or (base or Path()) / name_or_path
        if not path.is_file():
            near = difflib.get_close_matches(str(name_or_path), packaged, n=1)
            raise ConfigError(
                "there is no such prompt template",
                where="rationales.prompt",
                got=repr(str(name_or_path)),
                expected=f"{', '.join(packaged)}, or the path of a TOML file",
                hint=f"did you mean {near[0]!r}?" if near else f"copy {packaged['generic']} and change it",
            )
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError("a prompt template is not valid TOML", where=str(path), got=error) from error
        check(values, str(path))
        return cls(
            name=values.get("name", path.stem),
            system=values["system"].strip(),
            user=values["user"].strip(),
            user_items_only=values.get("user_items_only", values["user"]).strip(),
            item_format=values["item_format"].strip(),
            labels={key: values["labels"][key].strip() for key in LABELS},
            step0=_step0(values.get("step0", {})),
            item_separator=values.get("item_separator", "; "),
            category_separator=values.get("category_separator", ", "),
            summary_start=values.get("summary_start", "").strip(),
            summary_max_tokens=values.get("summary_max_tokens", 48),
        )

    @cached_property
    def prompt_id(self) -> str:
        """Name and hash of everything that changes a prompt or how its answer is read."""
        content = {key: value for key, value in vars(self).items() if key not in {"name", "prompt_id", "_reader"}}
        return f"{self.name}-{content_id({**content, 'step0': vars(self.step0)})}"

    def catalogue(self, items: pl.DataFrame) -> Catalogue:
        """Condense an items frame (`columns.ITEMS`) by this template's Step 0."""
        return Catalogue.from_items(items, self.step0)

    def render(self, history: Sequence[HistoryItem], n_categories: int, n_items: int) -> tuple[Message, ...]:
        """Write the messages of one user.

        Parameters
        ----------
        history : sequence of HistoryItem
            Condensed items (`Catalogue.items`), oldest first; at least one.
        n_categories, n_items : int
            How many to ask for; 0 categories uses `user_items_only`.
        """
        lines = [f"{number}. {self._line(item)}" for number, item in enumerate(history, 1)]
        slots = {"history": self.item_separator.join(lines), "n_categories": n_categories, "n_items": n_items}
        user = self.user if n_categories else self.user_items_only
        messages: list[Message] = [{"role": "user", "content": user.format(**slots)}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system.format(**slots)})
        return tuple(messages)

    def skeleton(self, banned_titles: Collection[str], n_categories: int, n_items: int) -> Skeleton:
        """Return the layout a constrained answer has; `banned_titles` are condensed titles, the history's."""
        blocks: list[Fixed | Free | Choice] = [
            Fixed(f"{self.labels['summary']} {self.summary_start}".rstrip()),
            Free(self.summary_max_tokens, min_tokens=3),
        ]
        heading = f"{self.labels['answer']}\n"
        banned = frozenset(banned_titles)
        for label, options, count, without in (
            (self.labels["categories"], CATEGORIES, n_categories, frozenset[str]()),
            (self.labels["items"], ITEMS, n_items, banned),
        ):
            heading += f"{label}\n" if count else ""
            for number in range(1, count + 1):
                blocks += [Fixed(f"{heading}{number}."), Choice(options, without)]
                heading = ""
        return tuple(blocks)

    def parse(
        self,
        text: str,
        catalogue: Catalogue,
        banned: Collection[str] = (),
        n_categories: int | None = None,
        n_items: int | None = None,
    ) -> ParsedRationale:
        """Read an answer; `banned` are full titles. See `AnswerReader.read`."""
        return self._reader.read(text, catalogue, banned, n_categories, n_items)

    def parse_step1(self, text: str) -> ParsedRationale:
        """Read an answer for its Step 1 alone. See `AnswerReader.read_step1`."""
        return self._reader.read_step1(text)

    def has_step2(self, text: str) -> bool:
        """Say whether an answer recommends anything. See `AnswerReader.has_step2`."""
        return self._reader.has_step2(text)

    @cached_property
    def _reader(self) -> AnswerReader:
        return AnswerReader(**self.labels)

    def _line(self, item: HistoryItem) -> str:
        names = self.category_separator.join(clean(name) for name in item.categories)
        if names:
            return self.item_format.format(title=clean(item.title), categories=names)
        # Without categories their slot goes, and the brackets around it.
        plain = re.sub(r"\s*[(\[]?\s*\{categories\}\s*[)\]]?", "", self.item_format)
        return plain.format(title=clean(item.title))


def _step0(values: Mapping[str, Any]) -> Step0:
    options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return Step0(**options)


def rationale_text(embed: str, summary: str, categories: Sequence[str], items: Sequence[str]) -> str:
    """Return the text of a rationale that is embedded; `embed` as in `config.Rationales`."""
    step2 = step2_text(categories, items)
    return {"recommendations": step2, "summary": summary, "both": f"{summary} {step2}"}[embed]


def step2_text(categories: Sequence[str], items: Sequence[str], items_label: str = "Items:") -> str:
    """Return the text of Step 2 that is embedded: "Categories: A, B. Items: X, Y.".

    Titles are cut to 80 characters, so that each of them fits into a sentence encoder's window.
    """
    parts = (("Categories:", categories), (items_label, [shorten(clean(item), 80) for item in items]))
    return " ".join(f"{label} {', '.join(clean(name) for name in names)}." for label, names in parts if names)
