"""Making projects: the settings are in reland.toml before anything runs, and what is finished is left alone."""

from __future__ import annotations

import argparse
import json
import shutil
from datetime import datetime

import polars as pl
import pytest

from ranking.experiments import prepare as module
from ranking.experiments.prepare import prepare
from reland_features.config import load
from reland_features.errors import ConfigError, RelandError
from reland_features.ledger import Attempt, Ledger

TABLES = ("interactions", "items")


@pytest.fixture
def options(world, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in TABLES:
        getattr(world.toy, name).write_parquet(tables / f"{name}.parquet")

    def make(*settings, source="", tasks=("sequential",), rationales=None):
        return argparse.Namespace(
            dataset=str(world.folder / "made-up.toml"),
            tables=tables,
            projects=tmp_path / "made",
            source=source,
            set=list(settings),
            tasks=tasks,
            rationales=rationales,
            rationales_model="a large model",
        )

    return make


@pytest.fixture
def runs(monkeypatch):
    """Let `reland init` be itself, and `reland run` only say that it published."""
    real, called = module._reland, []

    def reland(*arguments):
        called.append(arguments[0])
        if arguments[0] != "run":
            return real(*arguments)
        root = module.Path(arguments[2])
        (root / ".reland").mkdir(exist_ok=True)
        (root / ".reland" / "current.json").write_text(json.dumps({}))
        return ""

    monkeypatch.setattr(module, "_reland", reland)
    return called


def texts(folder, liked):
    """Write a file of texts that have Step 1 only."""
    path = folder / f"{liked}.parquet"
    pl.DataFrame({"user_id": ["u0", "u1"], "text": [f"You prefer {liked}.", "You prefer both."]}).write_parquet(path)
    return path


def test_a_project_is_made_once_with_the_papers_settings(options, runs):
    (root,) = prepare(options("seeds.count=5", source="direct"))
    assert root.name == "sequential-direct"
    config = load(root)
    assert (config.data.user_k_core, config.data.item_k_core, config.seeds.count) == (5, 5, 5)
    assert config.rationales.prompt.endswith("prompts/direct.toml")
    assert config.evaluation.command == ()
    assert list(root.parent.glob("*.partial")) == []

    prepare(options("seeds.count=5", source="direct"))
    assert runs == ["init", "run"]
    with pytest.raises(ConfigError, match=r"made with another seeds\.count"):
        prepare(options("seeds.count=6", source="direct"))


def test_another_source_starts_from_what_the_own_project_has_made(options, runs):
    (own,) = prepare(options())
    state = own / ".reland"
    vectors, features = (state / "artifacts" / kind / "an-id" for kind in ("behavior_vectors", "features"))
    for folder in (vectors, features):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    answered = Attempt("a-call", "hf:x", "movies-1", "{}", "u0", "ok", "paid for", "stop", 9, 3, "", "2024-03-02", 1.0)
    with Ledger(state / "ledger.sqlite") as ledger:
        ledger.record([answered])

        (root,) = prepare(options(source="direct"))

    with Ledger(root / ".reland" / "ledger.sqlite") as copied:
        assert [attempt for _, attempt in copied.attempts()] == [answered]
    assert (root / ".reland" / "artifacts" / "behavior_vectors" / "an-id" / "manifest.json").is_file()
    # What is published stands in the other project's folder.
    assert not (root / ".reland" / "artifacts" / "features").exists()


def test_texts_of_another_system_are_imported_before_the_run(options, runs, tmp_path):
    (root,) = prepare(options(source="strong", rationales=texts(tmp_path, "dramas")))
    assert runs == ["init", "rationales", "run"]
    config = load(root)
    assert (config.rationales.engine, config.rationales.embed) == ("imported", "summary")
    assert (root / ".reland" / "artifacts" / "imported_texts" / config.rationales.model).is_dir()


def test_other_texts_than_the_projects_are_refused_before_anything_runs(options, runs, tmp_path):
    one, two = texts(tmp_path, "dramas"), texts(tmp_path, "comedies")
    (root,) = prepare(options(source="strong", rationales=one))
    made = (root / "reland.toml").read_text()
    runs.clear()
    with pytest.raises(ConfigError, match=r"made with another rationales\.model") as caught:
        prepare(options(source="strong", rationales=two, tasks=("collaborative", "sequential")))
    assert caught.value.got == load(root).rationales.model
    assert str(two) in caught.value.expected
    other_writer = options(source="strong", rationales=one)
    other_writer.rationales_model = "a small model"
    with pytest.raises(ConfigError, match=r"made with another rationales\.model"):
        prepare(other_writer)
    assert runs == []
    assert not (root.parent / "collaborative-strong").exists()

    (tmp_path / "moved").mkdir()
    assert prepare(options(source="strong", rationales=one.rename(tmp_path / "moved" / "same.parquet"))) == [root]
    assert (root / "reland.toml").read_text() == made
    assert runs == []


def test_other_tables_than_the_projects_are_refused_before_anything_runs(options, runs, tmp_path):
    first = options()
    prepare(first)
    runs.clear()
    again = options()
    again.tables = shutil.copytree(first.tables, tmp_path / "copied")
    prepare(again)  # the same content in another place

    items = pl.read_parquet(again.tables / "items.parquet")
    items.head(items.height - 1).write_parquet(again.tables / "items.parquet")
    with pytest.raises(ConfigError, match=r"made with another data\.items") as caught:
        prepare(again)
    assert caught.value.got == str(first.tables / "items.parquet")
    assert caught.value.expected == str(again.tables / "items.parquet")
    prepare(options())
    pl.DataFrame({"user_id": ["u0"]}).write_parquet(first.tables / "users.parquet")
    with pytest.raises(ConfigError, match=r"made with another data\.users"):
        prepare(first)
    assert runs == []


def test_tables_that_were_set_are_not_those_of_the_folder(options, runs, tmp_path):
    elsewhere = shutil.copytree(options().tables, tmp_path / "elsewhere") / "items.parquet"
    pl.read_parquet(elsewhere).head(5).write_parquet(elsewhere)
    for _ in range(2):
        prepare(options(f"data.items={elsewhere}"))
    assert runs == ["init", "run"]


def test_settings_of_the_user_win_over_the_imports_but_engine_and_model(options, runs, tmp_path):
    both = "Step 1: You like war.\nStep 2:\nMovies:\n1. Nowhere to be found"
    pl.DataFrame({"user_id": ["u0"], "text": [both]}).write_parquet(tmp_path / "texts.parquet")
    chosen = ("rationales.embed=summary", "rationales.engine=openai", "rationales.model=large")
    for _ in range(2):
        (root,) = prepare(options(*chosen, source="strong", rationales=tmp_path / "texts.parquet"))
    assert runs == ["init", "rationales", "run"]
    settings = load(root).rationales
    assert (settings.engine, settings.embed) == ("imported", "summary")
    assert settings.model.startswith("texts-")


def test_dates_are_settings_like_any_other(options, runs):
    for _ in range(2):
        (root,) = prepare(options("data.as_of=2024-03-01"))
    assert load(root).data.as_of == datetime(2024, 3, 1)
    assert runs == ["init", "run"]


def test_nothing_is_made_where_a_name_is_wrong(options, runs, tmp_path):
    for wrong in (
        options(source="nosuch"),
        options(tasks=("sequental",)),
        options("seeds.count"),
        options(rationales=tmp_path),
    ):
        with pytest.raises(ConfigError):
            prepare(wrong)
    wrong = options()
    wrong.tables = tmp_path
    with pytest.raises(ConfigError, match="a table is not there"):
        prepare(wrong)
    assert runs == []


def test_a_reland_command_that_fails_is_named(options, monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(RelandError, match="reland init did not finish"):
        prepare(options())


def test_the_direct_prompt_is_a_valid_template():
    from reland_features.prompts import PromptTemplate

    template = PromptTemplate.load(module.PROMPTS / "direct.toml")
    assert "prefer" not in template.user.lower()
