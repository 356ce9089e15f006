"""Examples to learn from: a user's history as the prompt shows it, and what the user really chose next.

Everything comes from training interactions. Step 2 of an example's answer is the user's next categories and
items, in the layout that the prompt's skeleton forces. No one knows the user's real Step 1; it is written by
template from the history (which categories, how often), so that Step 1 says something that is true and that Step 2
can build on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from reland_features.config import Rationales, Tuning
from reland_features.engines.base import Engine, Request
from reland_features.errors import ConfigError
from reland_features.prompts import Catalogue, HistoryItem, PromptTemplate
from reland_features.seed_requests import SeedHistory, fitted_histories, history_of

_SUMMARY_CATEGORIES = 3


@dataclass(frozen=True)
class Example:
    """A request and its real answer: one text for each slot of the request's skeleton, in order."""

    user_id: str
    request: Request
    answer: tuple[str, ...]


@dataclass(frozen=True)
class Learners:
    """Users to learn from and others to measure on.

    Parameters
    ----------
    training, held_out : polars.DataFrame
        user_id, item_ids (the end of the history before the cut, oldest first), seen (all of its items),
        interaction_count (of all of it) and future (the items after it); no user is in both.
    """

    training: pl.DataFrame
    held_out: pl.DataFrame


def draw_learners(
    interactions: pl.DataFrame, excluded: Sequence[str], settings: Tuning, max_history: int, seed: int
) -> Learners:
    """Cut the last `horizon` training interactions off as the future, and draw users.

    Parameters
    ----------
    interactions : polars.DataFrame
        `columns.INTERACTIONS`: training interactions only.
    excluded : sequence of str
        Users that are not learned from; they may be measured on.
    settings : Tuning
        How many users, and how long their future is.
    max_history : int
        Items of history that are kept, as `data.max_history` does.
    seed : int
        The held-out users do not depend on how many are learned from.

    Raises
    ------
    ConfigError
        No user is left to learn from.
    """
    item, horizon = pl.col("item_id"), settings.horizon
    cut = (
        interactions.sort("user_id", "interaction_order")
        .filter(pl.len().over("user_id") > horizon)
        .group_by("user_id", maintain_order=True)
        .agg(
            item_ids=item.head(pl.len() - horizon).tail(max_history),
            seen=item.head(pl.len() - horizon).unique(maintain_order=True),
            future=item.tail(horizon),
            interaction_count=pl.len() - horizon,
        )
    )
    drawn = cut[np.random.default_rng(seed).permutation(cut.height)]
    held_out = drawn.head(settings.held_out)
    training = drawn.slice(settings.held_out).filter(~pl.col("user_id").is_in(list(excluded)))
    if training.is_empty():
        raise ConfigError(
            "no user is left to learn from",
            where="tuning",
            got=f"{cut.height:,} users with more than {horizon} interactions, {len(set(excluded)):,} excluded",
            expected=f"more than tuning.held_out = {settings.held_out:,}",
            hint="reland tune --set tuning.held_out=N --set tuning.exclude_seeds=false",
        )
    return Learners(training.head(settings.examples), held_out)


def make_examples(
    training: pl.DataFrame,
    catalogue: Catalogue,
    template: PromptTemplate,
    settings: Rationales,
    engine: Engine | None = None,
) -> list[Example]:
    """Write a request and its real answer for every user of `Learners.training`.

    The request is the one that `reland generate` would make, with the template's few-shot examples and condensed as
    it says. Where the future holds fewer categories or titles than it asks for, the example asks for fewer; a user
    whose future has no new title gives no example.

    Parameters
    ----------
    engine : Engine, optional
        Counts tokens where `rationales.condense.max_prompt_tokens` limits them.

    Raises
    ------
    ConfigError
        A prompt with a single item is longer than that.
    """
    condensing = template.condensing
    limit = condensing.max_prompt_tokens if condensing else None
    shown_as = dict(zip(catalogue.titles, catalogue.shown, strict=True))
    histories: dict[str, SeedHistory] = {}
    answers: dict[str, tuple[list[str], list[str]]] = {}
    columns = ("user_id", "item_ids", "seen", "interaction_count", "future")
    for user, item_ids, seen, total, future in training.select(columns).iter_rows():
        history = history_of(item_ids, seen, total, catalogue, condensing)
        banned = {shown_as[title] for title in history.banned}
        categories, titles = real_answer(future, catalogue, banned)
        categories, titles = categories[: settings.categories], titles[: settings.items]
        if history.shown and titles:
            histories[user] = history if limit else history.last(settings.max_history)
            answers[user] = categories, titles

    def request(user: str, history: SeedHistory) -> Request:
        categories, titles = answers[user]
        counts = len(categories), len(titles)
        messages = template.render(history.shown, *counts, history.earlier)
        banned = {shown_as[title] for title in history.banned}
        return Request(messages, template.skeleton(banned, *counts), settings.max_tokens)

    if limit:
        assert engine is not None, "max_prompt_tokens needs an engine that counts"
        histories = fitted_histories(histories, limit, request, engine)
    return [
        Example(user, request(user, history), (summary(history.shown), *answers[user][0], *answers[user][1]))
        for user, history in histories.items()
    ]


def real_answer(
    future: Sequence[str], catalogue: Catalogue, banned: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the categories of the next items, the most frequent first, and their shown titles in order.

    Ties of categories go to the one met first; titles of `banned` (the history) do not count as next.
    """
    items = [catalogue.items[item] for item in future if item in catalogue.items]
    names = set(catalogue.categories)
    counts = Counter(name for item in items for name in item.categories if name in names)
    titles = dict.fromkeys(item.title for item in items if item.title not in banned)
    return [name for name, _ in counts.most_common()], list(titles)


def summary(shown: Sequence[HistoryItem]) -> str:
    """Return the Step 1 of an example, as it goes on after the template's first words.

    For example "Drama (9 of 20), Comedy (7) and War (2)."; without categories it names the last two titles.
    """
    counts = Counter(name for item in shown for name in item.categories).most_common(_SUMMARY_CATEGORIES)
    parts = [f"{name} ({count})" for name, count in counts] or [item.title for item in shown[-2:]]
    if counts:
        parts[0] = f"{counts[0][0]} ({counts[0][1]} of {len(shown)})"
    return f"{', '.join(parts[:-1])} and {parts[-1]}." if len(parts) > 1 else f"{parts[0]}."
