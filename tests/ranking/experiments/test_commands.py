"""The commands on a toy world: what is run, what is resumed, what is written and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
from made_up import linked

from ranking import fitting
from ranking.experiments.__main__ import main
from ranking.experiments.runner import Runner
from ranking.experiments.runs import Run
from ranking.experiments.variants import VARIANTS
from ranking.training_state import TrainingState

TABLE2 = ("table2", "--backbones", "lightgcn")


def test_table2_runs_the_controls_and_a_second_call_runs_nothing(world, capsys):
    assert world.run(*TABLE2, "--seeds", "2") == 0
    written = world.raw()
    assert len(written) == 5 * 2  # id, f_item, ReLand, shuffled, constant
    text = world.text("table2_made-up")
    assert "Rationales: pool pool-1 (collaborative), 6 seeds by nobody, summary embedded\n" in text
    assert "10 to do" in capsys.readouterr().err

    assert world.run(*TABLE2, "--seeds", "2") == 0
    assert world.raw() == written
    assert "10 finished before, 0 to do" in capsys.readouterr().err
    assert world.text("table2_made-up") == text
    assert (world.results / "table2_made-up.png").stat().st_size > 1000


def test_texts_of_another_system_need_no_project_of_the_own_llm(world, prepared, tmp_path, capsys):
    assert world.run(*TABLE2) == 0
    own = world.raw()
    elsewhere = dataclasses.replace(world, folder=tmp_path / "elsewhere")
    (elsewhere.projects / "made-up").mkdir(parents=True)
    (elsewhere.folder / "made-up.toml").write_text((world.folder / "made-up.toml").read_text())
    (elsewhere.projects / "made-up" / "collaborative-strong").symlink_to(
        prepared.projects / "made-up" / "collaborative"
    )
    assert elsewhere.run(*TABLE2, "--source", "strong") == 0
    # IDs and item texts are the same runs whatever the source; those with rationales are others.
    assert len(own.keys() & elsewhere.raw().keys()) == 2
    assert elsewhere.run(*TABLE2, "--source", "strong", "--trials", "2") == 0
    assert elsewhere.run(*TABLE2) == 1
    assert "there is no finished project to take features from" in capsys.readouterr().err


def test_without_seeds_measures_the_users_whose_text_is_about_another(measured):
    written = measured.raw()
    assert measured.run(*TABLE2, "--without-seeds") == 0
    assert measured.raw() == written  # nothing is trained again
    seeds = set(measured.toy.pool["seed_user_id"])
    ids = pl.concat([measured.toy.interactions["user_id"], measured.toy.holdout["user_id"]]).unique().sort()
    for path in (measured.results / "raw").rglob("*.parquet"):
        run = Run.read(path)
        others = np.array([ids[int(row)] not in seeds for row in run.users])
        frame = pl.read_parquet(measured.results / "table2_made-up_without_seeds.parquet")
        of = frame.filter(
            pl.col("variant") == run.facts["spec"]["variant"],
            pl.col("against").is_null(),
            metric="ndcg",
            convention="masked",
        )
        assert of["mean"].item() == pytest.approx(run.values("ndcg", "masked")[others].mean())
    assert f"the {others.sum()} of {len(others)} users (collaborative)" in measured.text("table2_made-up_without_seeds")
    assert 0 < others.sum() < len(others)


def test_without_seeds_leaves_out_the_seeds_where_no_run_reads_a_pool(measured):
    assert measured.run(*TABLE2, "--without-seeds", "--suffix", "whole") == 0
    assert measured.run(*TABLE2, "--variants", "f_item", "--without-seeds", "--suffix", "floor") == 0
    whole, floor = (
        pl.read_parquet(measured.results / f"table2_made-up_without_seeds_{suffix}.parquet").filter(
            pl.col("against").is_null(), variant="f_item"
        )
        for suffix in ("whole", "floor")
    )
    assert floor.equals(whole)


def test_sources_on_other_interactions_are_refused_before_anything_is_trained(world, prepared, tmp_path, capsys):
    elsewhere = dataclasses.replace(world, folder=tmp_path / "elsewhere")
    shutil.copytree(world.folder / "projects" / "made-up", elsewhere.projects / "made-up")
    (elsewhere.folder / "made-up.toml").write_text((world.folder / "made-up.toml").read_text())
    direct = shutil.copytree(
        elsewhere.projects / "made-up" / "collaborative", elsewhere.projects / "made-up" / "collaborative-direct"
    )
    current = json.loads((direct / ".reland" / "current.json").read_text())
    other = shutil.copytree(current["marts"], direct / "other-marts")
    (direct / ".reland" / "current.json").write_text(json.dumps({**current, "marts": str(other)}))
    assert elsewhere.run("ablation", "--backbones", "lightgcn") == 1
    assert elsewhere.raw() == {}
    said = capsys.readouterr().err
    assert "rationales of another source were made on other interactions" in said
    assert re.search(r"got: +other-marts", said)


def test_every_table_names_its_command_and_machine_and_no_folder_of_this_machine(measured):
    lines = measured.text("table2_made-up").splitlines()
    assert lines[2] == (
        "`python -m ranking.experiments table2 --dataset made-up.toml --projects DIR --results DIR "
        "--backbones lightgcn`"
    )
    assert re.fullmatch(r"Machine: .+ cores?, .+", lines[4])
    assert str(measured.folder) not in measured.text("table2_made-up")
    assert "0.0476 / 0.0230 (masked)" in measured.text("table2_made-up")


def test_segments_and_curves_read_table2s_runs(measured):
    written = measured.raw()
    assert measured.run("segments", "--backbones", "lightgcn") == 0
    assert measured.run("curves", "--backbones", "lightgcn") == 0
    assert measured.raw() == written
    levels = pl.read_parquet(measured.results / "segments_made-up.parquet")
    users = levels.filter((pl.col("variant") == "reland") & pl.col("users").is_not_null()).unique("setting")
    assert users["users"].sum() == measured.toy.holdout["user_id"].n_unique()
    curve = pl.read_parquet(measured.results / "curves_made-up.parquet")
    assert curve.filter(pl.col("variant") == "reland")["epoch"].to_list() == [1, 2, 3]


def test_a_suffix_makes_a_second_table_and_a_note_stands_above_it(measured):
    first = measured.text("table2_made-up")
    assert measured.run(*TABLE2, "--variants", "f_item", "--suffix", "items", "--note", "A second table.") == 0
    assert measured.text("table2_made-up") == first
    assert measured.text("table2_made-up_items").splitlines()[6] == "A second table."
    assert measured.run(*TABLE2, "--suffix", "../up") == 1


@pytest.mark.parametrize("note", ["One line.\nAnother.", "One line.\n", "One line.\u2028Another."])
def test_a_note_of_several_lines_is_refused(measured, capsys, note):
    assert measured.run(*TABLE2, "--suffix", "noted", "--note", note) == 1
    assert "--note is one line" in capsys.readouterr().err
    assert not (measured.results / "table2_made-up_noted.md").exists()


def test_a_page_says_in_its_parquet_that_seeds_were_left_out(measured):
    assert measured.run(*TABLE2, "--suffix", "told") == 0
    assert measured.run(*TABLE2, "--suffix", "told", "--without-seeds") == 0
    for name, said in (("table2_made-up_told", False), ("table2_made-up_without_seeds_told", True)):
        frame = pl.read_parquet(measured.results / f"{name}.parquet")
        assert set(frame.filter(pl.col("against").is_null())["without_seeds"]) == {said}


def test_the_summary_has_each_comparison_once_and_no_quick_page(measured, capsys):
    for more in ("", "again"):
        assert measured.run(*TABLE2, "--suffix", more) == 0
    assert measured.run(*TABLE2, "--quick") == 0
    assert main(["summary", "--results", str(measured.results)]) == 0
    lines = [line for line in measured.text("summary").splitlines() if line.startswith("| [")]
    assert len(lines) == 1
    frame = pl.read_parquet(measured.results / "table2_made-up.parquet")
    of = frame.filter((pl.col("metric") == "ndcg") & (pl.col("convention") == "masked"))
    without, having = (
        of.filter(pl.col("variant") == name, pl.col("mean") > 0)["mean"].item() for name in ("f_item", "reland")
    )
    assert lines[0].startswith(
        f"| [table2_made-up](table2_made-up.md) | lightgcn | + ReLand | {without:.4f} | {having:.4f} | "
        f"{having - without:+.4f} ("
    )
    assert "1 comparison with both controls" in measured.text("summary")

    assert main(["summary", "--results", str(measured.folder / "empty")]) == 1
    assert "there are no results to sum up" in capsys.readouterr().err


@pytest.mark.slow
def test_each_reland_row_has_its_controls(world):
    world.run(*TABLE2, "--variants", "reland,reland_cross,reland_without_items")
    frame = pl.read_parquet(world.results / "table2_made-up.parquet")
    for name in ("reland", "reland_cross", "reland_without_items"):
        against = set(frame.filter((pl.col("variant") == name) & pl.col("against").is_not_null())["against"])
        assert against == {VARIANTS[name].base, *VARIANTS[name].controls}
    assert "controls missing" not in world.text("table2_made-up")


def test_runs_killed_between_two_are_resumed_where_they_stopped(world, monkeypatch):
    execute, calls = Runner.execute, []

    def killed_at_the_third(runner, plan):
        calls.append(plan.spec.variant)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return execute(runner, plan)

    monkeypatch.setattr(Runner, "execute", killed_at_the_third)
    assert world.run(*TABLE2) == 130
    kept = world.raw()
    assert len(kept) == 2

    monkeypatch.setattr(
        Runner, "execute", lambda runner, plan: calls.append(plan.spec.variant) or execute(runner, plan)
    )
    assert world.run(*TABLE2) == 0
    assert kept.items() <= world.raw().items()
    assert calls == ["id", "f_item", "reland", "reland", "reland_shuffled", "reland_constant"]


def test_a_run_killed_while_it_trains_goes_on_from_its_last_evaluation(world, monkeypatch):
    write, train, epochs = TrainingState.write, fitting.train_epoch, []
    monkeypatch.setattr(fitting, "train_epoch", lambda *given: epochs.append(1) or train(*given))

    def killed_in_the_second_epoch_of_the_third_run(state, *given):
        write(state, *given)
        if len(epochs) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "write", killed_in_the_second_epoch_of_the_third_run)
        assert world.run(*TABLE2) == 130
    assert len(world.raw()) == 2
    assert len(list(world.projects.rglob("*.training"))) == 1
    assert world.run(*TABLE2) == 0
    assert len(epochs) == 5 * 3
    assert list(world.projects.rglob("*.training")) == []


def test_quick_is_said_in_the_table_and_keeps_its_own_files(world):
    world.run(*TABLE2, "--quick")
    text = world.text("table2_made-up_quick")
    assert "**Quick: fewer epochs" in text
    assert not (world.results / "table2_made-up.md").exists()
    runs = [Run.read(path) for path in (world.results / "raw").rglob("*.parquet")]
    assert {run.facts["epochs"] for run in runs} == {1}
    assert all(run.facts["spec"]["quick"] for run in runs)


@pytest.mark.slow  # each process imports torch and Feast anew
def test_two_jobs_give_what_one_gives(world):
    world.run(*TABLE2, "--jobs", "1")
    one = {name: Run.read(world.results / "raw" / "made-up" / name) for name in world.raw()}
    for path in (world.results / "raw" / "made-up").iterdir():
        path.unlink()
    assert world.run(*TABLE2, "--jobs", "2") == 0
    assert world.raw().keys() == one.keys()
    for name, run in one.items():
        again = Run.read(world.results / "raw" / "made-up" / name)
        np.testing.assert_array_equal(again.ndcg["masked"], run.ndcg["masked"])


@pytest.fixture(scope="module")
def measured(prepared, tmp_path_factory):
    """A world with Table 2's runs."""
    world = linked(prepared, tmp_path_factory.mktemp("measured"))
    assert world.run(*TABLE2) == 0
    return world


@pytest.mark.parametrize(
    "options, message",
    [
        (("table2", "--backbones", "lightgnc"), "no such backbone"),
        (("table2", "--backbones", "lightgcn", "--variants", "rland"), "no such variant"),
        (("table2", "--backbones", "lightgcn", "--source", "strong"), "made-up.toml --tables DIR --projects"),
        (("table2", "--backbones", "lightgcn", "--seeds", "0"), "--seeds and --jobs are at least 1"),
        (("where", "--backbones", "lightgcn", "--keep-last", "5,none"), "--keep-last takes counts"),
        (("table2", "--backbones", "lightgcn", "--device", "cuda:99"), "there is no such device"),
        (("seeds", "--backbones", "lightgcn", "--fractions", "2"), "above 0 and at most 1"),
        (("ablation", "--backbones", "lightgcn", "--keep-last", "0"), "--keep-last takes a count"),
        (("search", "--backbone", "popularity"), "there is nothing to search"),
        (("case", "--user", "nobody", "--backbone", "popularity", "--variants", "id"), "no such user"),
    ],
)
def test_a_wrong_name_is_one_error_before_any_run(world, capsys, options, message):
    assert world.run(*options) == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert message in error
    assert world.raw() == {} or options[0] == "case"
