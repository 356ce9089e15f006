"""Load, render and read back a prompt template: Steps 0 to 2 of section 3.1.2."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from reland_features.artifacts import content_id
from reland_features.config import Condense, Rationales
from reland_features.errors import ConfigError
from reland_features.prompts.catalogue import CATEGORIES, ITEMS, Catalogue
from reland_features.prompts.condensing import LEFT_OUT, Condensing
from reland_features.prompts.parsing import AnswerReader, ParsedRationale
from reland_features.prompts.schema import LABELS, check
from reland_features.prompts.text import HistoryItem, Step0, clean, shorten
from reland_features.skeleton import Choice, Fixed, Free, Skeleton

Message = dict[Literal["role", "content"], str]


@dataclass(frozen=True)
class Example:
    """A conversation that is shown before the real one; `history` has items in the form they are shown."""

    history: tuple[str, ...]
    summary: str
    categories: tuple[str, ...]
    items: tuple[str, ...]


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
        How titles, or with `Condensing` whole histories, are condensed.
    item_separator, category_separator : str
        Stand between two history items, and between two categories of an item.
    summary_start : str
        First words of a constrained answer's Step 1; they keep a small model from repeating the task.
    summary_max_tokens : int
        Longest Step 1 sentence of a constrained answer, in tokens.
    examples : tuple of Example
        Shown in this order as turns of user and assistant (few-shot).
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
    examples: tuple[Example, ...] = ()

    @classmethod
    def of(cls, settings: Rationales, base: Path | None = None) -> PromptTemplate:
        """Load the prompt of a configuration, with its condensing and its examples; see `load`."""
        return cls.load(settings.prompt, base, condense=settings.condense, examples=settings.examples)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        base: Path | None = None,
        *,
        condense: Condense | None = None,
        examples: int = 0,
    ) -> PromptTemplate:
        """Load a packaged domain (movies, products, generic) or a TOML file, relative to `base`.

        Parameters
        ----------
        condense : config.Condense, optional
            How histories are condensed; they are not where it is None or not enabled.
        examples : int
            How many of the file's examples the prompt shows.

        Raises
        ------
        ConfigError
            There is no such domain or file; a key or slot is missing, unknown or of a wrong type; the file has
            fewer examples.
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
            step0=_step0(values.get("step0", {}), values.get("condense", {}), condense),
            item_separator=values.get("item_separator", "; "),
            category_separator=values.get("category_separator", ", "),
            summary_start=values.get("summary_start", "").strip(),
            summary_max_tokens=values.get("summary_max_tokens", 48),
            examples=_examples(values.get("examples", []), examples, str(path)),
        )

    @cached_property
    def prompt_id(self) -> str:
        """Name and hash of everything that changes a prompt or how its answer is read."""
        unnamed = {"name", "prompt_id", "_reader", "examples"}
        content = {key: value for key, value in vars(self).items() if key not in unnamed}
        if self.examples:  # left out where there are none: prompts from before there were any keep their ids
            content["examples"] = [asdict(example) for example in self.examples]
        return f"{self.name}-{content_id({**content, 'step0': vars(self.step0)})}"

    @property
    def condensing(self) -> Condensing | None:
        """How histories are condensed, or None where they are shown as they are."""
        return self.step0 if isinstance(self.step0, Condensing) else None

    def catalogue(self, items: pl.DataFrame) -> Catalogue:
        """Condense an items frame (`columns.ITEMS`) by this template's Step 0."""
        return Catalogue.from_items(items, self.step0)

    def render(
        self, history: Sequence[HistoryItem], n_categories: int, n_items: int, n_left_out: int = 0
    ) -> tuple[Message, ...]:
        """Write the messages of one user.

        Parameters
        ----------
        history : sequence of HistoryItem
            Condensed items (`Catalogue.items`), oldest first; at least one.
        n_categories, n_items : int
            How many to ask for; 0 categories uses `user_items_only`.
        n_left_out : int
            Earlier items that are not shown; the prompt says so where histories are condensed.
        """
        messages: list[Message] = []
        if self.system:
            messages.append(
                {"role": "system", "content": self.system.format(n_categories=n_categories, n_items=n_items)}
            )
        for example in self.examples:
            names = example.categories if n_categories else ()
            messages += [
                {"role": "user", "content": self._question(example.history, len(names), len(example.items))},
                {"role": "assistant", "content": self._answer(example.summary, names, example.items)},
            ]
        note = self.condensing.note(n_left_out) if self.condensing else ""
        question = self._question([self._line(item) for item in history], n_categories, n_items, note)
        return (*messages, {"role": "user", "content": question})

    def _question(self, lines: Sequence[str], n_categories: int, n_items: int, note: str = "") -> str:
        shown = self.item_separator.join(f"{number}. {line}" for number, line in enumerate(lines, 1))
        user = self.user if n_categories else self.user_items_only
        return user.format(history=f"{note}{shown}", n_categories=n_categories, n_items=n_items)

    def _answer(self, summary: str, categories: Sequence[str], items: Sequence[str]) -> str:
        """Write an answer in the layout that `skeleton` has."""
        lines = [f"{self.labels['summary']} {summary}", self.labels["answer"]]
        for label, names in ((self.labels["categories"], categories), (self.labels["items"], items)):
            lines += [label, *(f"{number}. {name}" for number, name in enumerate(names, 1))] if names else []
        return "\n".join(lines)

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


def _step0(values: Mapping[str, Any], promotional: Mapping[str, Any], condense: Condense | None) -> Step0:
    options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    if condense is None or not condense.enabled:
        return Step0(**options)
    return Condensing(
        **options,
        patterns=(*promotional.get("patterns", ()), *condense.patterns),
        dedupe=condense.dedupe,
        max_prompt_tokens=condense.max_prompt_tokens,
        left_out=promotional.get("left_out", LEFT_OUT),
    )


def _examples(values: Sequence[Mapping[str, Any]], wanted: int, where: str) -> tuple[Example, ...]:
    if wanted > len(values):
        raise ConfigError(
            "the prompt template has fewer examples than rationales.examples asks for",
            where=where,
            got=f"{len(values)} [[examples]]",
            expected=f"at least {wanted}",
            hint="add [[examples]] with history, summary, categories and items, or lower rationales.examples",
        )
    return tuple(
        Example(tuple(e["history"]), e["summary"], tuple(e.get("categories", ())), tuple(e["items"]))
        for e in values[:wanted]
    )


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
