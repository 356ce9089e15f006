"""Score Step 2 against what users really chose next: category precision and next-item hits, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from reland_features.prompts import Catalogue
from reland_features.quality.bootstrap import estimate, mean_of
from reland_features.tuning.examples import real_answer

MEASURES = ("category_precision", "item_hit_rate")


@dataclass(frozen=True)
class Step2:
    """Categories and full titles, recommended or real."""

    categories: tuple[str, ...]
    titles: tuple[str, ...]


def answers_of(rationales: pl.DataFrame) -> dict[str, Step2]:
    """Return the Step 2 of each user of a `columns.RATIONALES` table; an unusable rationale recommends nothing."""
    usable = pl.col("status") == "ok"
    rows = rationales.select("seed_user_id", usable, "categories", "items").iter_rows()
    return {
        user: Step2(tuple(categories), tuple(titles)) if ok else Step2((), ()) for user, ok, categories, titles in rows
    }


def futures_of(held_out: pl.DataFrame, catalogue: Catalogue) -> dict[str, Step2]:
    """Return what each user of `Learners.held_out` chose next, titles of the history left out."""
    futures = {}
    for user, item_ids, future in held_out.select("user_id", "item_ids", "future").iter_rows():
        categories, shown = real_answer(future, catalogue, _titles(item_ids, catalogue))
        futures[user] = Step2(tuple(categories), tuple(catalogue.find_titles(title)[0] for title in shown))
    return futures


def constant_answers(
    held_out: pl.DataFrame, items: pl.DataFrame, catalogue: Catalogue, n_categories: int, n_items: int
) -> dict[str, Step2]:
    """Recommend the most popular categories, and the most popular titles outside the history, to everyone.

    Popularity is `interaction_count` of the items mart, the held-out users' own training interactions included:
    an advantage of this baseline.
    """
    known = items.filter(pl.col("item_id").is_in(list(catalogue.items)))
    by_category: dict[str, int] = {}
    for item, count in known.select("item_id", "interaction_count").iter_rows():
        for name in catalogue.items[item].categories:
            by_category[name] = by_category.get(name, 0) + count
    categories = tuple(sorted(by_category, key=lambda name: (-by_category[name], name))[:n_categories])
    order = sorted(range(len(catalogue.titles)), key=lambda n: (-catalogue.popularity[n], n))
    answers = {}
    for user, item_ids in held_out.select("user_id", "item_ids").iter_rows():
        seen = _titles(item_ids, catalogue)
        titles = (n for n in order if catalogue.shown[n] not in seen)
        answers[user] = Step2(
            categories, tuple(catalogue.titles[n] for n, _ in zip(titles, range(n_items), strict=False))
        )
    return answers


def shuffled_answers(answers: Mapping[str, Step2], seed: int) -> dict[str, Step2]:
    """Give each user the answer of another one: a random cyclic shift."""
    users = list(np.random.default_rng(seed).permutation(list(answers)))
    return {user: answers[other] for user, other in zip(users, users[1:] + users[:1], strict=True)}


def scores(answers: Mapping[str, Step2], futures: Mapping[str, Step2]) -> np.ndarray:
    """Return `MEASURES` by user, in the order of `futures`; float64 [users, 2].

    Category precision is the share of recommended categories that are among the real next ones; an item hit is 1
    if any recommended title is among the real next ones.
    """
    values = np.zeros((len(futures), len(MEASURES)))
    for row, (user, real) in enumerate(futures.items()):
        given = answers[user]
        if given.categories:
            values[row, 0] = len(set(given.categories) & set(real.categories)) / len(given.categories)
        values[row, 1] = bool(set(given.titles) & set(real.titles))
    return values


def compare(
    sources: Mapping[str, Mapping[str, Step2]],
    futures: Mapping[str, Step2],
    differences: Sequence[tuple[str, str]],
    seed: int,
) -> list[dict[str, Any]]:
    """Measure several sources of answers on the same users, and differences between them, paired by user.

    Intervals are 95 % bootstrap intervals over users.

    Returns
    -------
    list of dict
        answers, measure, value, low, high; a difference is named "a − b".
    """
    by_source = {name: scores(answers, futures) for name, answers in sources.items()}
    rows = by_source | {f"{one} − {other}": by_source[one] - by_source[other] for one, other in differences}
    means = {(name, n): mean_of(values[:, n]) for name, values in rows.items() for n in range(len(MEASURES))}
    return [
        {"answers": name, "measure": MEASURES[n], **asdict(found)}
        for (name, n), found in estimate(means, len(futures), seed).items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `compare` as a markdown table."""
    lines = ["| answers | category precision | next-item hit rate |", "| --- | ---: | ---: |"]
    cells = {(row["answers"], row["measure"]): row for row in rows}
    for name in dict.fromkeys(row["answers"] for row in rows):
        shown = ("{value:.4f} ({low:.4f} to {high:.4f})".format(**cells[name, measure]) for measure in MEASURES)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _titles(item_ids: Sequence[str], catalogue: Catalogue) -> set[str]:
    return {catalogue.items[item].title for item in item_ids if item in catalogue.items}
