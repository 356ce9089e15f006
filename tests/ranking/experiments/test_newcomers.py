"""New users on a toy world: trained without them, and measured after their first interactions."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from made_up import made_up

from ranking.experiments.inputs import load_split
from ranking.experiments.newcomers import mean_run, span
from ranking.experiments.runs import Run, RunSpec
from ranking.newcomers import newcomers
from reland_features.errors import ConfigError


def two_epochs(world) -> None:
    file = world.folder / "made-up.toml"
    file.write_text(file.read_text() + "[sequential.sasrec]\nfit = { max_epochs = 2 }\n")


def test_newcomers_are_met_with_weights_that_never_saw_them(world, capsys):
    two_epochs(world)
    command = ("newcomers", "--variants", "reland_dated", "--known", "1,2-3")
    assert world.run(*command) == 0
    runs = [Run.read(path) for path in (world.results / "raw").rglob("*.parquet")]
    of = {(run.facts["spec"]["variant"], run.facts["spec"]["known"]): run for run in runs}
    variants = ("f_item", "reland_dated", "dated_shuffled", "dated_constant")
    assert set(of) == {(name, known) for name in variants for known in range(4)}
    new = newcomers(load_split(world.projects / "made-up" / "sequential"))
    for (name, known), run in of.items():
        assert np.isin(run.users, new).all() == (known > 0)
        assert known or not np.isin(run.users, new).any()
        assert run.facts["curve"] == of[name, 0].facts["curve"], "one training for all moments"
    weights = list((world.projects / "weights").glob("*.pt"))
    assert len(weights) == len(variants)

    frame = pl.read_parquet(world.results / "newcomers_made-up.parquet")
    assert set(frame["setting"]) == {"sasrec, learned from", "sasrec, first 1", "sasrec, first 2-3"}
    row = frame.filter(setting="sasrec, first 2-3", variant="reland_dated", metric="ndcg", convention="masked")
    both = [of["reland_dated", known].values("ndcg", "masked") for known in (2, 3)]
    assert row["mean"].drop_nulls().item() == pytest.approx(np.mean(both))
    assert "A third of the users" in world.text("newcomers_made-up")

    capsys.readouterr()
    assert world.run(*command) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "to do" in line]
    assert said == [f"{n} runs: {n} finished before, 0 to do" for n in (4, 12)]


def test_the_project_of_another_source_is_enough(world):
    two_epochs(world)
    sequential = (world.projects / "made-up" / "sequential").resolve()
    (world.projects / "made-up").unlink()
    (world.projects / "made-up").mkdir()
    (world.projects / "made-up" / "sequential-strong").symlink_to(sequential)
    assert world.run("newcomers", "--source", "strong", "--variants", "mean_text_dated", "--known", "1") == 0
    assert "mean text of the history so far" in world.text("newcomers_made-up_strong")


def test_runs_of_two_trainings_are_not_shown_as_one(world, capsys):
    two_epochs(world)
    assert world.run("newcomers", "--variants", "f_item", "--known", "1") == 0
    for path in (world.projects / "weights").glob("*.pt"):
        weights = torch.load(path, weights_only=True)
        torch.save({name: value * 2 for name, value in weights.items()}, path)
    assert world.run("newcomers", "--variants", "f_item", "--known", "1,2") == 1
    said = capsys.readouterr().err
    assert "of two trainings" in said
    assert "delete the runs of newcomers" in said


def test_what_nobody_reaches_or_stands_twice_is_said_before_anything_is_trained(world, capsys):
    for known, what in (("1,500", "no newcomer has so many interactions"), ("1-3,2", "a moment stands in two spans")):
        assert world.run("newcomers", "--known", known) == 1
        assert what in capsys.readouterr().err
    assert world.raw() == {}


def test_a_user_is_averaged_over_the_moments_at_which_it_was_met():
    first, second = made_up([0.2, 0.4, 0.6], level=[1, 2, 3]), made_up([0.8, 0.0], level=[1, 2])
    mean = mean_run([first, second])
    assert mean.users.tolist() == [0, 1, 2]
    assert mean.level.tolist() == [1, 2, 3]
    np.testing.assert_allclose(mean.values("ndcg", "masked"), [0.5, 0.2, 0.6], rtol=1e-6)
    np.testing.assert_allclose(mean.values("hr", "masked"), [1, 0.5, 1])


def test_moments_are_counts_or_spans():
    assert [list(span(text)) for text in ("1", "3-5")] == [[1], [3, 4, 5]]
    for wrong in ("0", "0-2", "5-3", "a", "1-", "-2", "1-2-3"):
        with pytest.raises(ConfigError, match="--known"):
            span(wrong)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"task": "collaborative", "backbone": "lightgcn"}, "backbone lightgcn"),
        ({"backbone": "popularity"}, "backbone popularity"),
        ({"variant": "own"}, "variant own"),
        ({"variant": "reland"}, "variant reland"),
        ({"known": -1}, "-1 known interactions"),
        ({"keep_last": 5}, "users who are cut"),
        ({"seed_users": 0.5}, "fewer seed users"),
    ],
)
def test_what_cannot_be_measured_on_newcomers_is_said_before_anything_is_trained(more, said):
    with pytest.raises(ConfigError, match="never learned from") as caught:
        RunSpec(
            **{
                "dataset": "d",
                "task": "sequential",
                "backbone": "sasrec",
                "variant": "reland_dated",
                "known": 1,
                **more,
            }
        )
    assert caught.value.got == said


def test_a_spec_without_newcomers_is_kept_under_the_id_it_always_had():
    spec = RunSpec("d", "sequential", "sasrec", "id")
    assert "known" not in spec.as_dict()
    assert RunSpec("d", "sequential", "sasrec", "id", known=0).as_dict()["known"] == 0
