"""Runs that are trained while something else writes: another publication of the project, another command."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from made_up import World

from ranking.experiments import inputs, runner
from ranking.experiments.dataset import load_dataset
from ranking.experiments.runner import Runner
from ranking.experiments.runs import RunSpec
from reland_features.errors import ConfigError

SPEC = RunSpec("made-up", "collaborative", "lightgcn", "reland", quick=True)
ID_ONLY = dataclasses.replace(SPEC, variant="id")


@pytest.fixture
def own(prepared, tmp_path) -> World:
    """A world whose project is a copy, which may be published anew."""
    shutil.copytree(prepared.projects / "made-up" / "sequential", tmp_path / "projects" / "made-up" / "collaborative")
    shutil.copy(prepared.folder / "made-up.toml", tmp_path)
    return World(tmp_path, prepared.toy)


def runner_of(world: World) -> Runner:
    return Runner(load_dataset(str(world.folder / "made-up.toml")), world.projects, world.results)


def publish_anew(world: World) -> None:
    """Publish a run of other features, as `reland run` does."""
    state = world.projects / "made-up" / "collaborative" / ".reland"
    current = json.loads((state / "current.json").read_text())
    shutil.copytree(state / "artifacts" / "features" / current["features_run"], state / "artifacts" / "features" / "b")
    (state / "current.json").write_text(json.dumps({**current, "features_run": "b"}))


@pytest.mark.parametrize("process", ["the same", "a new one"])
def test_a_run_is_not_trained_on_other_features_than_it_was_planned_with(own, process):
    runner = runner_of(own)
    plan = runner.planner.plan(SPEC)
    publish_anew(own)
    if process == "a new one":  # which has not opened the project before, as that of `--jobs`
        inputs.open_project.cache_clear()
    with pytest.raises(ConfigError) as raised:
        runner.execute(plan)
    assert own.raw() == {}
    assert (raised.value.got, raised.value.expected) == ("features_run b", "features_run run-1")
    assert "run the command again" in raised.value.hint

    inputs.open_project.cache_clear()
    assert runner.planner.plan(SPEC).id != plan.id


def test_features_published_while_they_are_read_are_not_trained_on(own, monkeypatch):
    sides_of = runner.sides_of

    def slowly(*given):
        publish_anew(own)
        return sides_of(*given)

    monkeypatch.setattr(runner, "sides_of", slowly)
    of = runner_of(own)
    with pytest.raises(ConfigError, match="other features since"):
        of.execute(of.planner.plan(SPEC))
    assert own.raw() == {}


def test_a_run_that_reads_none_of_the_features_goes_on_where_others_are_published(own):
    runner = runner_of(own)
    plan = runner.planner.plan(ID_ONLY)
    publish_anew(own)
    runner.execute(plan)
    assert list(own.raw()) == [f"{plan.id}.parquet"]


def test_a_run_that_another_command_finished_meanwhile_is_read_and_not_trained_again(own, monkeypatch):
    specs = [dataclasses.replace(ID_ONLY, seed=seed) for seed in range(3)]
    execute, trained = Runner.execute, []

    def beside_another_command(runner, plan):
        trained.append(plan.spec.seed)
        if plan.spec.seed == 0:
            execute(runner, runner.planner.plan(specs[1]))
        return execute(runner, plan)

    monkeypatch.setattr(Runner, "execute", beside_another_command)
    runs = runner_of(own).run_all(specs)
    assert trained == [0, 2]
    assert [runs[spec].seed for spec in specs] == [0, 1, 2]
