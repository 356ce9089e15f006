"""`reland pool` on a finished project: nothing is run again, and nothing is written by looking."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import reland_features.prompts
from reland_features.commands.pool import pool
from reland_features.curation import DECISIONS
from reland_features.curation.editing import Desk
from reland_features.errors import CheckError, ConfigError
from reland_features.pool import ReasoningPool


def call(toy, *arguments: str) -> str:
    done = CliRunner().invoke(pool, [*arguments, "--project", str(toy.root)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def seeds(toy) -> list[str]:
    return ReasoningPool.read(toy.build()["pool"].artifact.path).frame["seed_user_id"].to_list()


def test_looking_writes_nothing(toy, seeds):
    before = sorted(p for p in toy.root.rglob("*") if "__pycache__" not in p.parts)
    for command in ("review", "quality", "decisions"):
        call(toy, command, "--json")
    assert sorted(p for p in toy.root.rglob("*") if "__pycache__" not in p.parts) == before


def test_review_takes_a_rule_and_a_limit(toy, seeds):
    every = json.loads(call(toy, "review", "--json"))
    assert every["rationales"] == len(seeds)
    some = json.loads(call(toy, "review", "--json", "--rule", "same-embedding", "--rule", "untouched-category"))
    assert set(some["rules"]) <= {"same-embedding", "untouched-category"}
    assert len(json.loads(call(toy, "review", "--json", "--limit", "1"))["findings"]) <= 1


def test_quality_compares_with_the_held_out_future(toy, seeds):
    """Category precision by hand, from the tables."""
    found = json.loads(call(toy, "quality", "--json"))
    desk = Desk.of(toy.open())
    genre = {i: set(g) for i, g in desk.finished.items.select("item_id", "categories").iter_rows()}
    held = pl.read_parquet(desk.finished.marts.table("holdout"))
    shares = []
    for seed, said in desk.finished.pool.frame.select("seed_user_id", "categories").iter_rows():
        future = set().union(*(genre[i] for i in held.filter(pl.col("user_id") == seed)["item_id"]))
        shares.append(len(set(said) & future) / len(said))
    measure = found["measures"]["category_precision"]
    assert measure["pool"]["value"] == pytest.approx(sum(shares) / len(shares))
    assert measure["pool"]["low"] <= measure["pool"]["value"] <= measure["pool"]["high"]
    assert found["measures"]["inherited_category_precision"]["unit"] == "users"


def test_diff_names_what_was_blocked_edited_and_left_alone(toy, seeds):
    first = toy.build()["pool"].artifact.manifest["pool_version"]
    call(toy, "block", seeds[0], "--reason", "rude", "--author", "ann")
    call(toy, "edit", seeds[1], "--summary", "Likes films of no kind.", "--author", "ann")
    second = toy.build()["pool"].artifact
    for reference in (second.manifest["pool_version"], str(second.path), f"{toy.root}@{second.id.rsplit('-', 1)[-1]}"):
        found = json.loads(call(toy, "diff", first, reference, "--json"))
        assert [(c["seed_user_id"], c["kind"]) for c in found["changes"]] == [
            (seeds[0], "blocked"),
            (seeds[1], "changed"),
        ]
        assert found["changes"][1]["note"].startswith("edited by ann, ")
        assert found["unchanged"] == len(seeds) - 2
    assert "blocked" in call(toy, "diff", first, second.manifest["pool_version"])


@pytest.fixture
def german(toy) -> str:
    """The prompt of films with labels that another prompt's reader does not know."""
    text = (Path(reland_features.prompts.__file__).parent / "movies.toml").read_text()
    for english, word in {"Step": "Schritt", "Categories:": "Kategorien:", "Movies:": "Filme:"}.items():
        text = text.replace(english, word)
    (toy.root / "german.toml").write_text(text)
    return "rationales.prompt=german.toml"


def test_answers_that_todays_prompt_does_not_read_are_not_measured_by_it(toy, german):
    english, other = (toy.build(*use)["pool"].artifact.manifest["pool_version"] for use in ((), (german,)))

    def grounding(*settings: str) -> tuple[list[float | None], str]:
        arguments = ["diff", english, other, "--project", str(toy.root), *settings]
        done = CliRunner().invoke(pool, [*arguments, "--json"], catch_exceptions=False)
        found = json.loads(done.stdout)
        return [found[side]["measures"]["grounding"]["pool"]["value"] for side in ("a", "b")], done.stderr

    values, told = grounding()
    assert values == [1.0, None]
    assert told.count("does not read its answers") == 1
    assert f"pool {other} was asked for with prompt movies-" in told
    # English labels are known to every reader: the German prompt finds in both what the pools have.
    assert grounding("--set", german) == ([1.0, 1.0], "")
    suspicious = json.loads(call(toy, "review", "--pool", other, "--json"))
    assert suspicious["rules"] == json.loads(call(toy, "review", "--pool", other, "--json", "--set", german))["rules"]


def test_a_prompt_of_other_words_and_the_same_labels_reads_the_answers(toy, seeds):
    text = (Path(reland_features.prompts.__file__).parent / "movies.toml").read_text()
    (toy.root / "later.toml").write_text(text.replace("a film expert", "an expert of films"))
    measured = [
        json.loads(call(toy, "quality", "--json")),
        json.loads(call(toy, "quality", "--json", "--set", "rationales.prompt=later.toml")),
    ]
    assert measured[0] == measured[1]
    assert measured[0]["measures"]["grounding"]["pool"]["value"] == 1.0


def test_an_edit_keeps_what_is_not_given_and_a_file_will_do(toy, seeds, tmp_path):
    before = Desk.of(toy.open()).words(seeds[0])
    path = tmp_path / "words.toml"
    path.write_text('summary = "From a file."\n')
    decision = json.loads(call(toy, "edit", seeds[0], "--file", str(path), "--author", "ann", "--json"))["decision"]
    assert (decision["summary"], tuple(decision["items"])) == ("From a file.", before.items)
    assert Desk.of(toy.open()).words(seeds[0]).summary == "From a file."
    call(toy, "restore", seeds[0], "--author", "ann")
    assert Desk.of(toy.open()).words(seeds[0]) == before


def test_a_list_that_was_emptied_is_empty(toy, seeds, tmp_path):
    path = tmp_path / "words.toml"
    path.write_text('summary = "Nothing to recommend."\ncategories = []\nitems = []\n')
    arguments = ["edit", seeds[0], "--file", str(path), "--author", "ann", "--json", "--project", str(toy.root)]
    refused = CliRunner().invoke(pool, arguments)
    assert isinstance(refused.exception, CheckError)
    assert [p.what for p in refused.exception.problems] == ["no title is recommended", "no category is recommended"]
    path.write_text('{"summary": "Only this.", "categories": []}')
    decision = json.loads(call(toy, *arguments[:-2], "--force"))["decision"]
    assert (decision["categories"], len(decision["items"])) == ([], 3)
    assert Desk.of(toy.open()).words(seeds[0]).categories == ()


def test_an_edit_that_changes_nothing_is_no_decision(toy, seeds):
    words = Desk.of(toy.open()).words(seeds[0])
    call(toy, "edit", seeds[0], "--summary", words.summary)
    assert not (toy.root / ".reland" / DECISIONS).exists()


def test_regenerate_asks_once(toy, seeds):
    decision = json.loads(call(toy, "regenerate", seeds[0], "--feedback", "Too vague.", "--json"))["decision"]
    assert decision["action"] == "regenerate"
    assert "Too vague." in call(toy, "decisions")


@pytest.mark.parametrize(
    "command",
    [
        ("block", "--reason", "rude"),
        ("unblock",),
        ("edit", "--summary", "S."),
        ("edit",),
        ("regenerate",),
        ("restore",),
    ],
    ids=" ".join,
)
def test_a_user_without_a_name_is_told_to_give_one(toy, seeds, monkeypatch, command):
    """As in a container that runs under a number of its own."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654)
    monkeypatch.setattr("click.edit", lambda *given, **options: pytest.fail("what is written would be lost"))
    done = CliRunner().invoke(pool, [command[0], seeds[0], *command[1:], "--project", str(toy.root)])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.where == "--author"
    assert json.loads(call(toy, "decisions", "--json"))["decisions"] == []


def test_who_is_named_decides_where_the_user_has_no_name(toy, seeds, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: pytest.fail("not asked"))
    call(toy, "block", seeds[0], "--reason", "rude", "--author", "Ada")
    assert json.loads(call(toy, "decisions", "--json"))["decisions"][0]["author"] == "Ada"
