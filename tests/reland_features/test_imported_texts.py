"""Imported texts in the place of an LLM's answers: what is read of them, who may be a seed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from text_files import BOTH, PROSE, TEMPLATE, jsonl

from reland_features.artifacts import ArtifactStore
from reland_features.config import Rationales
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ConfigError, TooManyFailuresError
from reland_features.estimates import Amount, estimate
from reland_features.imported_texts import id_of_texts, import_texts, open_texts
from reland_features.ledger import Ledger
from reland_features.project import Project
from reland_features.prompts import rationale_text
from reland_features.rationales import generate
from reland_features.seed_tables import SeedTables
from reland_features.seeds import sample_seeds


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (PROSE, PROSE.removesuffix(".") + "."),
        ("Step 1: You like war.\nStep 2:\nMovies:\n1. Nowhere to be found", "You like war."),
        ('{"summary": "You like war.", "items": ["Nowhere"]}', "You like war."),
        ("**Bold** words\nand lines", 'Bold" words and lines'),
    ],
)
def test_step_1_alone_is_the_text_before_step_2_or_a_paragraph_as_a_whole(text, summary):
    parsed = TEMPLATE.parse_step1(text)
    assert (parsed.summary, parsed.categories, parsed.items, parsed.reason) == (summary, (), (), "")


def test_what_is_embedded():
    parts = ("You like war.", ["War"], ["Film four"])
    assert rationale_text("recommendations", *parts) == "Categories: War. Items: Film four."
    assert rationale_text("summary", *parts) == "You like war."
    assert rationale_text("both", *parts) == "You like war. Categories: War. Items: Film four."


class TestSampler:
    def draw(self, among, budget=12):
        ids = pl.Series([f"u{n:03}" for n in range(120)])
        values = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
        vectors = BehaviorVectors(ids, values, "toy", None)  # type: ignore[arg-type]
        generator = np.random.default_rng(1)
        return sample_seeds(vectors, np.ones(120), budget=budget, clusters=6, generator=generator, among=among)

    def test_draws_users_that_may_be_drawn_from_the_clusters_of_all(self):
        among = [f"u{n:03}" for n in range(0, 120, 3)] + ["not here"]
        some, all_of_them = self.draw(among), self.draw(None)
        assert set(some.seeds["user_id"]) <= set(among)
        assert some.seeds["user_id"].n_unique() == 12
        assert_frame_equal(some.user_clusters, all_of_them.user_clusters)
        assert_frame_equal(self.draw(all_of_them.user_clusters["user_id"]).seeds, all_of_them.seeds)
        assert set(self.draw(among, budget=40).seeds["user_id"]) == set(among[:-1])

    def test_too_few_users_with_a_text_are_an_error_that_counts_them(self):
        with pytest.raises(ConfigError) as caught:
            self.draw(["u001", "u002", "not here"])
        assert caught.value.got == "12 seeds of 2 users with behaviour and a text"
        assert "seeds.count=2" in caught.value.hint


class World:
    """Four users who saw the first film, six films, and an import of their texts."""

    def __init__(self, root: Path, *rows: dict[str, object]) -> None:
        titles = [f"Film {name}" for name in ("one", "two", "three", "four", "five", "six")]
        self.items = pl.DataFrame({"item_id": titles, "title": titles, "categories": [["War"], ["Drama"]] * 3})
        self.items = self.items.with_columns(interaction_count=1)
        self.histories = pl.DataFrame({"user_id": list("abcd"), "item_ids": [["Film one"]] * 4})
        self.seeds = self.histories.select("user_id", cluster_id=0, drawn_by=pl.lit("important"))
        (root / "reland.toml").write_text('[data]\ninteractions = "i.csv"\nitems = "i.csv"\n')
        self.project = Project.open(root, ["rationales.prompt=movies"])
        self.made = import_texts(self.project, jsonl(root / "texts.jsonl", *rows), model="gpt")

    def settings(self, **values: object) -> Rationales:
        return Rationales.model_validate({"engine": "imported", "model": self.made.id, "categories": 1, **values})

    def arguments(self, ledger: Ledger, **values: object):
        settings = self.settings(max_failed_fraction=1.0, **values)
        texts = open_texts(self.project.artifacts, settings)
        tables = SeedTables(self.seeds, self.histories, self.items, seen=self.histories)
        return tables, TEMPLATE, texts, ledger, settings


class TestGenerate:
    @pytest.fixture
    def world(self, tmp_path):
        seen = {"summary": "Only what you saw.", "categories": ["War"], "items": ["Film one"]}
        return World(
            tmp_path,
            {"user_id": "a", "text": BOTH},
            {"user_id": "b", "text": PROSE, "model": "other"},
            {"user_id": "c", "steps": seen},
        )

    @pytest.fixture
    def ledger(self, world):
        with Ledger(world.project.ledger) as opened:
            yield opened

    def test_texts_with_both_steps_are_grounded_and_the_others_have_no_rationale(self, world, ledger):
        result = generate(*world.arguments(ledger))
        frame = result.frame.select("seed_user_id", "status", "summary", "categories", "items", "reason")
        assert frame.rows() == [
            ("a", "ok", "You like war films.", ["War"], ["Film four"], None),
            ("b", "failed", None, None, None, "the import has no text of this user"),
            ("c", "invalid", "Only what you saw.", ["War"], [], "no title of the catalogue outside the history"),
            ("d", "failed", None, None, None, "the import has no text of this user"),
        ]

    def test_step_1_alone_will_do_where_only_the_summary_is_embedded(self, world, ledger):
        frame = generate(*world.arguments(ledger, embed="summary")).frame
        assert frame.select("seed_user_id", "status", "summary", "categories", "items").rows() == [
            ("a", "ok", "You like war films.", ["War"], ["Film four"]),
            ("b", "ok", PROSE, [], []),
            ("c", "ok", "Only what you saw.", [], []),
            ("d", "failed", None, None, None),
        ]
        assert frame["text"][1] == PROSE

    def test_the_ledger_holds_the_texts_as_answers_that_were_no_calls(self, world, ledger):
        estimated = estimate(*world.arguments(ledger, embed="summary"))
        assert (estimated.requests, estimated.cached) == (3, 3)
        assert estimated.expected == estimated.total == Amount(0, 0, 0, 0.0, 0.0)
        first = generate(*world.arguments(ledger, embed="summary", max_requests=1, max_total_tokens=1))
        again = generate(*world.arguments(ledger, embed="summary"))
        nothing = {"calls": 0, "failed": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0, "cost": 0.0}
        assert first.usage == again.usage == {**nothing, "cached": 3, "total": nothing}
        assert_frame_equal(first.frame, again.frame)
        answers = ledger.answers(first.frame["ledger_key"])
        assert [(a.seed_user_id, a.text, a.parameters) for a in answers.values()] == [
            ("a", BOTH, '{"model": "gpt"}'),
            ("b", PROSE, '{"model": "other"}'),
            ("c", first.frame["text"][2], '{"model": "gpt"}'),
        ]
        assert {a.engine_id for a in answers.values()} == {f"imported:gpt+other:{world.made.id}"}

    def test_too_many_unusable_texts_stop_the_run(self, world, ledger):
        *rest, settings = world.arguments(ledger)
        with pytest.raises(TooManyFailuresError, match="3 of 4 seed users"):
            generate(*rest, settings.model_copy(update={"max_failed_fraction": 0.5}))


class TestOpen:
    def test_the_same_texts_have_the_same_id_and_others_another(self, tmp_path):
        rows = [{"user_id": "a", "text": BOTH}, {"user_id": "b", "text": PROSE}]
        world = World(tmp_path, *rows)
        swapped = jsonl(tmp_path / "swapped.jsonl", *rows[::-1])
        assert import_texts(world.project, swapped, model="gpt").id == world.made.id
        assert import_texts(world.project, swapped, model="other").id != world.made.id
        assert len(world.project.artifacts.all("imported_texts")) == 2

    def test_the_id_of_a_file_is_known_without_bringing_it_in(self, tmp_path):
        world = World(tmp_path, {"user_id": "a", "text": BOTH})
        assert id_of_texts(world.project, tmp_path / "texts.jsonl", model="gpt") == world.made.id
        assert id_of_texts(world.project, tmp_path / "texts.jsonl", model="other") != world.made.id
        assert len(world.project.artifacts.all("imported_texts")) == 1

    @pytest.mark.parametrize(
        ("values", "where", "hint"),
        [
            ({"model": "texts-0"}, "rationales.model", "--set rationales.model=texts-"),
            ({"embed": "recommendations"}, "rationales.embed", "--set rationales.embed=summary"),
            ({"embed": "both"}, "rationales.embed", "--set rationales.embed=summary"),
            ({"embed": "summary", "options": {"delay": 1}}, "rationales.options", "remove them"),
        ],
    )
    def test_what_cannot_be_used_is_named_before_any_work(self, tmp_path, values, where, hint):
        world = World(tmp_path, {"user_id": "a", "text": PROSE})
        with pytest.raises(ConfigError) as caught:
            open_texts(world.project.artifacts, world.settings(**values))
        assert caught.value.where == where
        assert caught.value.hint.startswith(hint)

    def test_without_any_import_the_command_is_named(self, tmp_path):
        with pytest.raises(ConfigError) as caught:
            open_texts(ArtifactStore(tmp_path), Rationales(engine="imported"))
        assert caught.value.hint == "reland rationales import FILE"
