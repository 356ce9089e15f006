"""A prompt set is versioned by content: what changes a prompt changes its id, and nothing else does."""

from __future__ import annotations

from dataclasses import fields, replace

import polars as pl
import pytest

from reland_features.config import Condense
from reland_features.errors import ConfigError
from reland_features.prompts import Condensing, Example, HistoryItem, PromptTemplate, Step0

# Ids that ledgers hold: another one would pay for every answer again.
GOLDEN = {
    "generic": "generic-ab6c8cfbcb73",
    "movies": "movies-ba10612244e3",
    "products": "products-352ffde11161",
}
EXAMPLE = Example(("Alien (Horror)",), "You prefer horror.", ("Horror",), ("The Thing",))
CONDENSING = Condensing()
TEMPLATE = replace(PromptTemplate.load("movies"), step0=CONDENSING, examples=(EXAMPLE,))
CHANGED = {
    "system": "Be brief.",
    "user": "{history} {n_categories} {n_items}",
    "user_items_only": "{history} {n_items}",
    "item_format": "{title}",
    "labels": {**TEMPLATE.labels, "items": "Films:"},
    "step0": Step0(),
    "item_separator": " | ",
    "category_separator": " / ",
    "summary_start": "You like",
    "summary_max_tokens": 41,
    "examples": (),
}
CHANGED_STEP0 = {
    "max_title_chars": 81,
    "max_categories": 5,
    "drop_patterns": ("x",),
    "patterns": ("y",),
    "dedupe": False,
    "max_prompt_tokens": 400,
    "left_out": "{n_left_out} more",
}
CHANGED_EXAMPLE = {
    "history": ("Aliens (Horror)",),
    "summary": "You prefer aliens.",
    "categories": ("Sci-Fi",),
    "items": ("The Fly",),
}


@pytest.mark.parametrize(("name", "prompt_id"), GOLDEN.items())
def test_the_packaged_prompts_are_what_they_were(name, prompt_id):
    assert PromptTemplate.load(name).prompt_id == prompt_id
    assert PromptTemplate.load(name, condense=Condense(patterns=("x",)), examples=0).prompt_id == prompt_id


def test_every_field_is_part_of_the_id():
    assert {field.name for field in fields(PromptTemplate)} == {*CHANGED, "name"}
    assert {field.name for field in fields(Condensing)} == set(CHANGED_STEP0)
    assert {field.name for field in fields(Example)} == set(CHANGED_EXAMPLE)
    changed = [
        *(replace(TEMPLATE, **{key: value}) for key, value in CHANGED.items()),
        *(replace(TEMPLATE, step0=replace(CONDENSING, **{key: value})) for key, value in CHANGED_STEP0.items()),
        *(replace(TEMPLATE, examples=(replace(EXAMPLE, **{key: value}),)) for key, value in CHANGED_EXAMPLE.items()),
        replace(TEMPLATE, examples=(EXAMPLE, EXAMPLE)),
    ]
    ids = {TEMPLATE.prompt_id, *(template.prompt_id for template in changed)}
    assert len(ids) == len(changed) + 1
    assert replace(TEMPLATE).prompt_id == TEMPLATE.prompt_id


class TestExamples:
    def test_are_turns_before_the_users_history(self):
        messages = PromptTemplate.load("movies", examples=2).render([HistoryItem("Lucas", ("Drama",))], 3, 3)
        assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
        assert messages[1]["content"].startswith(
            "I've watched the following movies recently: 1. Alien (Horror Sci-Fi); 2. Blade Runner (Sci-Fi Thriller)"
        )
        assert messages[1]["content"].endswith("list 3 categories and 3 movies that I will watch.")
        assert messages[2]["content"] == (
            "Step 1: You prefer dark science fiction in which a small group faces something unknown.\n"
            "Step 2:\nCategories:\n1. Sci-Fi\n2. Horror\n3. Thriller\n"
            "Movies:\n1. The Fly\n2. Event Horizon\n3. Predator"
        )
        assert messages[-1] == PromptTemplate.load("movies").render([HistoryItem("Lucas", ("Drama",))], 3, 3)[-1]

    def test_answer_in_the_layout_that_is_asked_for_and_read(self):
        for name in GOLDEN:
            template = PromptTemplate.load(name, examples=1)
            (example,) = template.examples
            items = pl.DataFrame(
                {
                    "item_id": [str(n) for n in range(len(example.items))],
                    "title": list(example.items),
                    "categories": [list(example.categories)] * len(example.items),
                }
            )
            answer = template.render([HistoryItem("X")], 3, 3)[2]["content"]
            parsed = template.parse(answer, template.catalogue(items))
            assert (parsed.summary, parsed.categories, parsed.items, parsed.reason) == (
                example.summary, example.categories, example.items, "",
            )  # fmt: skip

    def test_have_no_categories_where_the_catalogue_has_none(self):
        messages = PromptTemplate.load("movies", examples=1).render([HistoryItem("Lucas")], 0, 3)
        assert messages[1]["content"].endswith("list 3 movies that I will watch.")
        assert "Categories:" not in messages[2]["content"]

    def test_that_the_file_does_not_have_are_an_error(self):
        with pytest.raises(ConfigError, match=r"(?s)fewer examples.*generic.toml.*1 \[\[examples\]\].*at least 3"):
            PromptTemplate.load("generic", examples=3)

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            ('[[examples]]\nhistory = ["a"]\nsummary = "b"', ["an example lacks 'items'", "number 1", "add items"]),
            ('[[examples]]\nhistroy = ["a"]', ["unknown key 'histroy'", "history, summary, categories, items"]),
            ("[condense]\npatterns = ['(']", ["no regular expression", "[condense]"]),
            ('[condense]\nleft_out = "{n} more"', ["unknown slot {n}", "[condense], left_out", "{n_left_out}"]),
            ('[condense]\nleft_out = "more"', ["lacks the slot {n_left_out}", "expected: {n_left_out}"]),
            ("[condense]\nmax = 3", ["unknown key 'max'", "patterns, left_out"]),
        ],
    )
    def test_and_condensing_of_an_own_template_are_checked(self, tmp_path, lines, expected):
        text = (
            'system = ""\nuser = "{history} {n_categories} {n_items}"\nitem_format = "{title}"\n[labels]\n'
            'summary = "Step 1:"\nanswer = "Step 2:"\ncategories = "Categories:"\nitems = "Items:"\n'
        )
        (tmp_path / "mine.toml").write_text(text + lines)
        with pytest.raises(ConfigError) as raised:
            PromptTemplate.load("mine.toml", base=tmp_path)
        for part in ("mine.toml", *expected):
            assert part in str(raised.value)


def test_a_missing_slot_names_the_file_the_slot_and_what_is_allowed(tmp_path):
    (tmp_path / "mine.toml").write_text('system = ""\nuser = "{history} {n_items}"\nitem_format = "{title}"\n')
    with pytest.raises(ConfigError) as raised:
        PromptTemplate.load("mine.toml", base=tmp_path)
    assert str(raised.value).splitlines()[0] == "a prompt template lacks the slot {n_categories}"
    for part in (
        "mine.toml, user",
        "{history}, {n_items}",
        "{history}, {n_categories}, {n_items}",
        "add {n_categories}",
    ):
        assert part in str(raised.value)
