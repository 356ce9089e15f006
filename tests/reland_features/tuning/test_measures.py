"""Category precision, item hits and their baselines, by hand."""

from __future__ import annotations

import polars as pl
import pytest

from reland_features.tuning.measures import (
    Step2,
    answers_of,
    compare,
    constant_answers,
    futures_of,
    scores,
    shuffled_answers,
    table,
)

FUTURES = {
    "a": Step2(("Crime", "Drama", "War"), ("Heat", "Fargo")),
    "b": Step2(("Comedy",), ("Amélie",)),
    "c": Step2(("Drama",), ()),
}


def test_scores_by_hand():
    answers = {
        "a": Step2(("Drama", "Crime", "Comedy"), ("Seven", "Fargo", "Heat")),
        "b": Step2(("Drama",), ("Heat",)),
        "c": Step2((), ()),
    }
    assert scores(answers, FUTURES).tolist() == [[2 / 3, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_the_future_leaves_titles_of_the_history_out(catalogue):
    held_out = pl.DataFrame({"user_id": ["a"], "item_ids": [["i1", "i2"]], "future": [["i2", "i3"]]})
    assert futures_of(held_out, catalogue) == {"a": Step2(("Crime", "Drama", "Action"), ("Heat (1995)",))}


def test_the_constant_is_the_most_popular_outside_the_history(items, catalogue):
    held_out = pl.DataFrame({"user_id": ["a", "b"], "item_ids": [["i1", "i3"], []], "future": [[], []]},
                            schema_overrides={"item_ids": pl.List(pl.String)})  # fmt: skip
    # Crime 9 + 8 + 6, Sci-Fi 10 + 7, Drama 9 + 7
    assert constant_answers(held_out, items, catalogue, 3, 2) == {
        "a": Step2(("Crime", "Sci-Fi", "Drama"), ("Fargo (1996)", "Solaris (1972)")),
        "b": Step2(("Crime", "Sci-Fi", "Drama"), ("Alien (1979)", "Fargo (1996)")),
    }


def test_shuffling_gives_everyone_the_answer_of_another():
    answers = {str(n): Step2((str(n),), ()) for n in range(20)}
    shuffled = shuffled_answers(answers, seed=0)
    assert sorted(a.categories for a in shuffled.values()) == sorted(a.categories for a in answers.values())
    assert all(shuffled[user] != answers[user] for user in answers)
    assert shuffled == shuffled_answers(answers, seed=0)


def test_an_unusable_rationale_recommends_nothing():
    frame = pl.DataFrame(
        {
            "seed_user_id": ["a", "b"],
            "status": ["ok", "invalid"],
            "categories": [["War"], ["War"]],
            "items": [["X"], []],
        }
    )
    assert answers_of(frame) == {"a": Step2(("War",), ("X",)), "b": Step2((), ())}


def test_differences_are_paired_by_user():
    good = {user: Step2(real.categories[:1], real.titles[:1]) for user, real in FUTURES.items()}
    none = {user: Step2(("Opera",), ("Nothing",)) for user in FUTURES}
    rows = compare({"good": good, "none": none}, FUTURES, [("good", "none")], seed=0)
    found = {(row["answers"], row["measure"]): row["value"] for row in rows}
    assert found["good − none", "category_precision"] == 1.0
    assert found["good − none", "item_hit_rate"] == pytest.approx(2 / 3)
    precision = next(row for row in rows if row["answers"] == "good − none")
    assert (precision["low"], precision["high"]) == (1.0, 1.0)  # the same for every user
    assert "| good − none | 1.0000 (1.0000 to 1.0000) | 0.6667 (" in table(rows)
