"""Making projects: the settings are in reland.toml before anything runs, and what is finished is left alone."""

from __future__ import annotations

import argparse
import json

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
    pl.DataFrame({"user_id": ["u0", "u1"], "text": ["You prefer dramas.", "You prefer comedies."]}).write_parquet(
        tmp_path / "texts.parquet"
    )
    (root,) = prepare(options(source="strong", rationales=tmp_path / "texts.parquet"))
    assert runs == ["init", "rationales", "run"]
    config = load(root)
    assert (config.rationales.engine, config.rationales.embed) == ("imported", "summary")
    assert (root / ".reland" / "artifacts" / "imported_texts" / config.rationales.model).is_dir()


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
