"""The whole job on a tiny model: adapter, measures, engine id, ledger, and what a second run repeats."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime

import polars as pl
import pytest
from typer.testing import CliRunner

from reland_features.cli import app
from reland_features.errors import ConfigError
from reland_features.ledger import Ledger
from reland_features.project import Project
from reland_features.prompts import PromptTemplate
from reland_features.seed_requests import plan_requests
from reland_features.seed_tables import SeedTables
from reland_features.stages import Outcome
from reland_features.stages.base import llm_engine
from reland_features.tuning.adapters import ADAPTER
from reland_features.tuning.job import TuningJob

USERS = 12


@pytest.fixture
def project(tmp_path, model, items, monkeypatch) -> Project:
    """Marts that are there already, and a secret holdout that nothing may read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "shop"
    root.mkdir()
    (root / "reland.toml").write_text(
        f"""
[data]
interactions = "none.parquet"
items = "none.parquet"
[rationales]
prompt = "movies"
model = {json.dumps(str(model))}
batch_size = 4
max_history = 2
categories = 1
items = 1
max_cost = 0.01
prompt_price = 1000.0
[rationales.options]
dtype = "float32"
device = "cpu"
[tuning]
examples = 6
held_out = 4
horizon = 2
batch_size = 3
rank = 2
exclude_seeds = false
"""
    )
    return Project.open(root)


@pytest.fixture
def marts(project, items) -> Outcome:
    rows = [
        (f"u{user}", f"i{(user * step) % 6 + 1}", step)
        for user in range(1, USERS + 1)
        for step in (1, 2, 3, 4)
        if user % 6  # the sixth would see one film four times
    ]
    when = datetime(2024, 1, 1)
    store = project.artifacts
    with store.create("marts", "marts-1", created_at=when, config={}, inputs=[], as_of=when) as draft:
        interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "interaction_order"], orient="row")
        interactions.write_parquet(draft.table("interactions"))
        items.write_parquet(draft.table("items"))
        draft.table("holdout").write_text("not a table: reading it is an error")
        draft.facts |= {"rows_in": len(rows), "rows_out": len(rows), "seconds": 0.0}
    found = store.find("marts", "marts-1")
    assert found is not None
    return Outcome("prepare", found, cached=True)


def silent(done: int, total: int) -> None:
    """Report no progress."""


def with_settings(project: Project, **changes: object) -> Project:
    return Project.open(
        project.root, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    )


def test_a_plan_counts_what_will_be_learned_and_keeps_nothing(project, marts):
    plan = TuningJob(project, {"prepare": marts}).plan()
    assert plan["examples"] + plan["left_out"] == 6
    assert plan["held_out_users"] == 4
    assert plan["steps"] == 2
    assert plan["tokens"] > 500 * plan["examples"]
    assert plan["seconds_per_step"] > 0
    assert project.artifacts.all(ADAPTER) == []
    assert not (project.state / "tuning").exists()


def test_the_adapter_becomes_an_engine_of_its_own(project, marts):
    job = TuningJob(project, {"prepare": marts})
    tuned = job.tune(silent)
    assert not tuned.cached
    assert job.tune(silent).cached
    assert not list((project.state / "tuning").iterdir())  # the checkpoint has done its duty
    assert tuned.artifact.manifest["inputs"] == ["marts-1"]
    assert len(tuned.artifact.manifest["losses"]) == tuned.rows_out == 2

    # Other settings, another adapter; another way through the same steps, the same one.
    other = TuningJob(with_settings(project, tuning__rank=3), {"prepare": marts})
    assert other.tune(silent).artifact.id != tuned.artifact.id
    same = TuningJob(with_settings(project, tuning__micro_batch_size=1), {"prepare": marts})
    assert same.tune(silent).cached

    named = with_settings(project, rationales__adapter=tuned.artifact.id)
    with closing(llm_engine(project)) as base, closing(llm_engine(named)) as engine:
        assert engine.engine_id != base.engine_id
        assert "+lora-" in engine.engine_id
        keys = [_ledger_keys(project, one) for one in (base, engine)]
    assert len(keys[0]) == len(keys[1]) > 0
    assert not keys[0] & keys[1]


def _ledger_keys(project: Project, engine) -> set[str]:
    marts = project.artifacts.find("marts", "marts-1")
    histories = pl.read_parquet(marts.table("interactions")).group_by("user_id").agg(item_ids=pl.col("item_id").head(1))
    items = pl.read_parquet(marts.table("items"))
    template = PromptTemplate.load("movies")
    tables = SeedTables(histories.select("user_id"), histories, items, seen=histories)
    plan = plan_requests(tables, template, engine, project.config.rationales)
    return {ask.key for ask in plan.roots}


def test_both_models_are_measured_on_the_same_users_and_never_asked_twice(project, marts):
    job = TuningJob(project, {"prepare": marts})
    tuned = job.tune(silent)
    measured = job.measure(tuned, silent)
    rows = measured.artifact.manifest["measures"]
    names = ["base", "tuned", "tuned, shuffled over users", "constant"]
    assert list(dict.fromkeys(row["answers"] for row in rows))[:4] == names
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    base, after = (pl.read_parquet(measured.artifact.table(name)) for name in ("base", "tuned"))
    assert base["seed_user_id"].to_list() == after["seed_user_id"].to_list()
    assert base["status"].to_list() == ["ok"] * 4
    with Ledger(project.ledger) as ledger:
        calls = ledger.usage().calls
    assert calls <= 8
    assert job.measure(tuned, silent).cached
    measured.artifact.path.joinpath("manifest.json").unlink()  # as after a kill: the answers are in the ledger
    assert job.measure(tuned, silent).artifact.manifest["measures"] == rows
    with Ledger(project.ledger) as ledger:
        assert ledger.usage().calls == calls


def test_what_is_learned_and_measured_is_the_prompt_that_generate_sends(project, marts):
    other = with_settings(project, rationales__examples=1, rationales__condense__enabled=True, tuning__max_tokens=2040)
    prompt_id = PromptTemplate.of(other.config.rationales, base=other.root).prompt_id
    assert prompt_id != PromptTemplate.load("movies").prompt_id
    job = TuningJob(other, {"prepare": marts})
    tuned = job.tune(silent)
    assert tuned.artifact.manifest["config"]["prompt_id"] == prompt_id
    job.measure(tuned, silent)
    with Ledger(other.ledger) as ledger:
        assert {attempt.prompt_id for _, attempt in ledger.attempts()} == {prompt_id}


def test_an_adapter_that_cannot_be_used_is_refused_before_any_work(project, marts, model):
    with pytest.raises(ConfigError, match="no such adapter") as raised:
        llm_engine(with_settings(project, rationales__adapter="adapter-x"))
    assert raised.value.hint == "reland tune"
    tuned = TuningJob(project, {"prepare": marts}).tune(silent)
    with pytest.raises(ConfigError, match="only the engine hf"):
        llm_engine(with_settings(project, rationales__adapter=tuned.artifact.id, rationales__engine="dummy"))
    with pytest.raises(ConfigError, match="another model"):
        llm_engine(with_settings(project, rationales__adapter=tuned.artifact.id, rationales__model=f"{model}/."))
    with pytest.raises(ConfigError, match="only a model on this machine"):
        TuningJob.needs(with_settings(project, rationales__engine="openai"))


def test_needs_seeds_only_where_they_are_excluded(project):
    assert TuningJob.needs(project) == "prepare"
    assert TuningJob.needs(with_settings(project, tuning__exclude_seeds=True)) == "sample"


def test_the_command_says_what_it_takes():
    shown = CliRunner().invoke(app, ["tune", "--help"]).output
    assert "--dry-run" in shown
