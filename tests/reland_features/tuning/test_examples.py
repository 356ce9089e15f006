"""What is learned from: training interactions only, the real next items, in the layout of the prompt."""

from __future__ import annotations

import re

import polars as pl
import pytest

from reland_features.config import Rationales, Tuning
from reland_features.engines.constraint import Answer
from reland_features.engines.dummy import DummyEngine
from reland_features.errors import ConfigError
from reland_features.prompts import PromptTemplate
from reland_features.prompts.text import HistoryItem
from reland_features.seed_requests import plan_requests
from reland_features.seed_tables import SeedTables
from reland_features.tuning.examples import draw_learners, make_examples, real_answer, summary
from reland_features.tuning.tokens import answer_tokens, make_lessons


def interactions(**histories: str) -> pl.DataFrame:
    rows = [
        (user, f"i{digit}", order)
        for user, digits in histories.items()
        for order, digit in enumerate(digits, 1)
    ]  # fmt: skip
    shuffled = pl.DataFrame(rows, schema=["user_id", "item_id", "interaction_order"], orient="row")
    return shuffled.sample(fraction=1, shuffle=True, seed=1)


def test_the_last_interactions_are_the_future_and_no_user_is_on_both_sides():
    world = interactions(a="12345", b="54321", c="123", d="12")
    drawn = draw_learners(world, [], Tuning(held_out=2, horizon=2), max_history=2, seed=0)
    both = pl.concat([drawn.training, drawn.held_out])
    assert {row[0]: row[1:] for row in both.iter_rows()} == {
        "a": (["i2", "i3"], ["i1", "i2", "i3"], ["i4", "i5"], 3),
        "b": (["i4", "i3"], ["i5", "i4", "i3"], ["i2", "i1"], 3),
        "c": (["i1"], ["i1"], ["i2", "i3"], 1),
    }  # d has no history before its future
    assert drawn.held_out.height == 2


def test_the_held_out_users_do_not_depend_on_the_number_of_examples_nor_on_the_seeds():
    world = interactions(**{f"u{n}": "123456" for n in range(30)})

    def draw(examples: int, excluded: list[str]):
        return draw_learners(world, excluded, Tuning(examples=examples, held_out=5), 50, seed=3)

    one, other = draw(4, []), draw(20, ["u1", "u2"])
    assert one.held_out["user_id"].to_list() == other.held_out["user_id"].to_list()
    assert one.training.height == 4
    assert not {"u1", "u2"} & set(other.training["user_id"])
    assert not set(other.training["user_id"]) & set(other.held_out["user_id"])


def test_without_users_to_learn_from_it_says_how_many_there_are():
    with pytest.raises(ConfigError, match="no user is left") as raised:
        draw_learners(interactions(a="123456", b="123456"), ["a", "b"], Tuning(held_out=2), 50, seed=0)
    assert "2 users with more than 5 interactions, 2 excluded" in str(raised.value)


def test_real_categories_are_by_count_then_by_time_and_titles_of_the_history_do_not_count(catalogue):
    # Crime Drama, Action Crime, Drama Sci-Fi, and an item that the catalogue does not know.
    categories, titles = real_answer(["i2", "i3", "i9", "i4", "i2"], catalogue, banned={"Heat"})
    assert categories == ["Crime", "Drama", "Action", "Sci-Fi"]
    assert titles == ["Fargo", "Solaris"]


def test_the_summary_is_true_of_the_history():
    shown = (HistoryItem("A", ("War", "Drama")), HistoryItem("B", ("Drama",)), HistoryItem("C", ("Comedy",)))
    assert summary(shown) == "Drama (2 of 3), War (1) and Comedy (1)."
    assert summary(shown[1:2]) == "Drama (1 of 1)."
    assert summary((HistoryItem("A"), HistoryItem("B"), HistoryItem("C"))) == "B and C."


@pytest.fixture
def training() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["a", "b", "c"],
            "item_ids": [["i1", "i2"], ["i3"], ["i1"]],
            "seen": [["i1", "i2"], ["i3"], ["i1"]],
            "future": [["i3", "i4", "i5"], ["i6", "i3"], ["i1"]],
            "interaction_count": [2, 1, 1],
        }
    )


def test_an_example_is_the_request_of_generate_and_the_real_answer(training, catalogue, template):
    older = training.with_columns(seen=pl.Series([["i6", "i1", "i2"], ["i3"], ["i1"]]))
    first, second = make_examples(older, catalogue, template, Rationales(categories=2, items=2, max_history=1))
    assert first.answer == ("Crime (1 of 1) and Drama (1).", "Crime", "Action", "Heat", "Solaris")
    assert "1. Fargo (Crime Drama)" in first.request.messages[-1]["content"]
    assert (
        "Alien" not in first.request.messages[-1]["content"]
    )  # max_history, but it is still banned, as is what is older than item_ids
    assert first.request.skeleton[-1].banned == {"Alien", "Amélie", "Fargo"}
    assert "list 2 categories and 2 movies" in first.request.messages[-1]["content"]
    # b watched one new film: it is asked for one. c watched nothing new: no example.
    assert second.answer == ("Action (1 of 1) and Crime (1).", "Comedy", "Action", "Amélie")
    assert "list 2 categories and 1 movies" in second.request.messages[-1]["content"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"examples": 2},
        {"condense": {"enabled": True}},
        {"examples": 1, "condense": {"enabled": True, "max_prompt_tokens": 203}},
        {"condense": {"enabled": True, "dedupe": False, "max_prompt_tokens": 115}},
    ],
)
def test_whatever_the_prompt_is_an_example_is_the_request_of_generate(items, settings):
    """Few-shot, repeated films, what is left out and is said to be, and a limit of tokens: word for word."""
    options = Rationales(engine="dummy", prompt="movies", categories=1, items=1, max_history=3, **settings)
    template, dummy = PromptTemplate.of(options), DummyEngine()
    shouted = items.with_columns(title=pl.col("title").str.replace("Heat", "HEAT OF THE FOREVER NIGHT!!! 🔥"))
    catalogue = template.catalogue(shouted)
    world = interactions(a="3121232123" + "4", b="2321" + "5", c="1" + "3", d="56" + "1", e="12" + "3")
    learners = draw_learners(world, [], Tuning(held_out=2, horizon=1), max_history=8, seed=0)
    training = learners.training
    tables = SeedTables(
        training.select("user_id"),
        training.select("user_id", "item_ids", "interaction_count"),
        shouted,
        training.select("user_id", item_ids="seen"),
    )
    asked = {ask.seed_user_id: ask.request for ask in plan_requests(tables, template, dummy, options).roots}
    made = {one.user_id: one.request for one in make_examples(training, catalogue, template, options, dummy)}
    assert len(made) == training.height == 3
    assert made == asked
    is_cut = "films before these" in str([request.messages for request in made.values()])
    assert is_cut == bool(settings.get("condense"))


def test_the_summary_is_of_what_is_shown(items):
    options = Rationales(prompt="movies", condense={"enabled": True})
    template = PromptTemplate.of(options)
    training = pl.DataFrame(
        {"user_id": ["a"], "item_ids": [["i5", "i5", "i5", "i6"]], "seen": [["i5", "i6"]], "interaction_count": [4],
         "future": [["i2"]]},
    )  # fmt: skip
    (example,) = make_examples(training, template.catalogue(items), template, options)
    assert example.answer[0] == "Crime (1 of 2) and Comedy (1)."  # Seven, three times in the history, is shown once


def lessons_of(examples, catalogue, engine, max_tokens=2048):
    prompts = engine.encode([example.request for example in examples])
    return make_lessons(examples, prompts, catalogue.options(), engine.vocabulary, max_tokens)


def test_a_lesson_reads_as_the_answer_that_the_engine_would_have_written(training, catalogue, template, engine):
    examples = make_examples(training, catalogue, template, Rationales(categories=2, items=2))
    lesson = lessons_of(examples, catalogue, engine)[0]
    prompt = engine.encode([examples[0].request])[0]
    assert list(lesson.tokens[: len(prompt)]) == prompt
    answer = Answer(examples[0].request.skeleton, catalogue.options(), engine.vocabulary, 256)
    for decision in lesson.decisions:
        assert answer.candidates == decision.candidates
        assert decision.position == len(prompt) + len(answer.tokens)
        answer.accept(lesson.tokens[decision.position])
    assert answer.done
    assert answer.tokens == list(lesson.tokens[len(prompt) :])
    # The limit of Step 1 is 40 tokens, here bytes.
    assert answer.text == (
        "Step 1: You prefer Horror (1 of 2), Sci-Fi (1) and Crime (1\n"
        "Step 2:\nCategories:\n1. Crime\n2. Action\nMovies:\n1. Heat\n2. Solaris\n"
    )


def test_only_what_the_model_decides_is_learned(training, catalogue, template, engine):
    examples = make_examples(training, catalogue, template, Rationales(categories=2, items=2))
    lesson = lessons_of(examples, catalogue, engine)[0]
    decided = [lesson.tokens[one.position] for one in lesson.decisions]
    # 40 bytes of Step 1, then only the bytes that tell a choice from its rivals: Crime from Comedy; Action;
    # Heat; Solaris from Seven. Labels, numbers, line ends and the rest of each name are forced.
    assert engine.vocabulary.decode(decided) == "Horror (1 of 2), Sci-Fi (1) and Crime (1CrAHSo"


def test_long_examples_are_left_out(training, catalogue, template, engine):
    examples = make_examples(training, catalogue, template, Rationales())
    sizes = [len(lesson.tokens) for lesson in lessons_of(examples, catalogue, engine)]
    assert len(lessons_of(examples, catalogue, engine, max_tokens=max(sizes) - 1)) == len(sizes) - 1


def test_names_that_the_tokenizer_cannot_tell_apart_give_no_example(training, catalogue, template, engine):
    example = make_examples(training, catalogue, template, Rationales(categories=1, items=1))[0]
    skeleton = example.request.skeleton
    tokens = answer_tokens(skeleton, example.answer, catalogue.options(), engine.vocabulary)
    assert re.match("Step 1:", engine.vocabulary.decode(tokens))
    twice = type(example)("a", type(example.request)(example.request.messages, (*skeleton, *skeleton[-2:])),
                          (*example.answer, example.answer[-1]))  # fmt: skip
    assert lessons_of([twice], catalogue, engine) == []  # the same title cannot be chosen again
