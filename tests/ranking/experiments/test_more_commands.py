"""The commands where they refuse, where nothing is to be trained, and what is left where one is killed."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import polars as pl
import pytest
import torch
from made_up import made_up

from ranking.experiments import figures, table2
from ranking.experiments.__main__ import main
from ranking.experiments.dataset import load_dataset
from ranking.experiments.options import shown_command
from ranking.experiments.runner import Runner
from ranking.experiments.study import Study
from ranking.experiments.tables import Group
from ranking.experiments.variants import VARIANTS


@pytest.fixture
def untrained(monkeypatch):
    """Let every experiment measure numbers that are made up; return what each wanted."""
    wanted = []

    def measure(study, pairs):
        pairs = list(pairs)
        wanted.extend((setting, spec.backbone, spec.variant) for setting, spec in pairs)
        runs = [made_up([0.5, 0.0, 1.0, 0.5], level=[1, 1, 2, 4]) for _ in pairs]
        return [Group(setting, spec.variant, (run,)) for (setting, spec), run in zip(pairs, runs, strict=True)]

    monkeypatch.setattr(Study, "measure", measure)
    return wanted


def test_ablation_refuses_texts_of_another_system(world, untrained, capsys):
    assert world.run("ablation", "--backbones", "sasrec", "--source", "strong") == 1
    said = capsys.readouterr().err
    assert "the parts are made with the own LLM" in said
    assert "--source" in said
    assert untrained == []


def test_table2_without_ids_trains_all_but_these(world, untrained):
    assert world.run("table2", "--backbones", "sasrec", "--without-ids") == 0
    assert [name for _, _, name in untrained] == ["f_item", "reland", "reland_shuffled", "reland_constant"]
    page = world.text("table2_made-up")
    assert "--without-ids" in page
    assert "ID-only" not in page


def test_the_command_of_a_part_that_was_not_run_can_be_typed_and_names_no_folder_of_this_machine(
    world, untrained, monkeypatch
):
    assert world.run("ablation", "--backbones", "lightgcn") == 0
    page = world.text("ablation_made-up")
    assert "`python -m ranking.experiments prepare " in page
    assert "--projects DIR --source direct`" in page
    assert str(world.folder) not in page

    # The default of --projects is a word of the module's name.
    monkeypatch.chdir(world.folder)
    (world.folder / "projects").rename("experiments")
    assert main(["ablation", "--dataset", "made-up.toml", "--results", "results", "--backbones", "lightgcn"]) == 0
    assert "`python -m ranking.experiments prepare " in world.text("ablation_made-up")


def test_ablation_tests_the_whole_against_each_part(world, untrained, prepared):
    projects = world.projects / "made-up"
    projects.unlink()
    projects.mkdir()
    for source in ("", "-direct", "-random"):
        (projects / f"sequential{source}").symlink_to(prepared.projects / "made-up" / "sequential")
    assert world.run("ablation", "--backbones", "sasrec") == 0
    page = world.text("ablation_made-up")
    shown = page[page.index("## The whole minus") : page.index("## Differences in NDCG@10")].splitlines()
    rows = [line.strip("| ").split(" | ") for line in shown if line.startswith("| sasrec")]
    labels = [
        "sasrec w/o recommendation-oriented prompting: + ReLand",
        "sasrec w/o adaptive sampling: + ReLand",
        "ReLand w/o f_item",
    ]
    assert [row[1:4] for row in rows] == [["+ ReLand", label, c] for c in ("masked", "unmasked") for label in labels]
    assert all("[" in row[4] and row[6] and row[7] for row in rows)


def test_table3_tests_reland_against_the_other_methods(world, untrained):
    assert world.run("table3", "--backbones", "sasrec") == 0
    frame = pl.read_parquet(world.results / "table3_made-up.parquet").filter(pl.col("role") == "method")
    assert frame.select("variant", "against").unique(maintain_order=True).rows() == [
        ("reland", "kar"),
        ("reland", "slim"),
    ]
    assert "| sasrec | + ReLand | + SLIM-style | masked |" in world.text("table3_made-up")


@pytest.mark.parametrize("option", ["--backbones", "--variants"])
def test_a_list_without_a_name_is_refused(world, untrained, capsys, option):
    with pytest.raises(SystemExit):
        world.run("table2", "--backbones", "lightgcn", option, " ,")
    assert f"argument {option}: at least one name is expected" in capsys.readouterr().err
    assert untrained == []


def test_a_full_disk_is_one_line_that_says_how_to_go_on(world, capsys, monkeypatch):
    def full(study):
        raise OSError(28, "No space left on device", "/results/x.parquet")

    monkeypatch.setattr(table2, "run", full)
    assert world.run("table2", "--backbones", "lightgcn") == 1
    said = capsys.readouterr().err
    assert "No space left on device: '/results/x.parquet'" in said
    assert "the same command resumes" in said


def test_a_worker_that_is_killed_is_one_error_that_says_how_to_go_on(world, capsys, monkeypatch):
    def killed(pool, work, *lists):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")
        yield

    monkeypatch.setattr(ProcessPoolExecutor, "map", killed)
    assert world.run("table2", "--backbones", "lightgcn,popularity", "--variants", "id", "--jobs", "2") == 1
    said = capsys.readouterr().err
    assert "the process of a run was killed" in said
    assert "with fewer --jobs" in said


def test_the_own_text_is_not_measured_on_users_who_have_none(world, capsys):
    assert world.run("table2", "--backbones", "lightgcn", "--variants", "reland,own", "--without-seeds") == 1
    said = capsys.readouterr().err
    assert "--without-seeds leaves out everybody who has a text of their own" in said
    assert "got:      own" in said


def test_an_option_of_a_backbone_is_checked_before_anything_is_trained(world, capsys):
    file = world.folder / "made-up.toml"
    text = file.read_text()
    file.write_text(text + '[collaborative.neumf]\noptions = { dimension = "16" }\n')
    assert world.run("table2", "--backbones", "lightgcn,neumf", "--variants", "id", "--quick") == 1
    said = capsys.readouterr().err
    assert "an option of a backbone is of the wrong type" in said
    assert "neumf.dimension" in said
    assert "runs:" not in said  # how many are to do: nothing was begun
    assert not list(world.results.rglob("*.parquet"))


@pytest.mark.parametrize("what", ["data", "figure"])
def test_a_page_killed_while_it_is_written_leaves_the_files_that_were_there(world, untrained, monkeypatch, what):
    segments = ("segments", "--backbones", "sasrec")
    assert world.run(*segments) == 0
    files = {path: path.read_bytes() for path in world.results.iterdir()}
    assert {path.suffix for path in files} == {".parquet", ".png", ".md"}

    def killed(path):
        Path(path).write_bytes(b"a part")
        raise KeyboardInterrupt

    if what == "data":
        monkeypatch.setattr(pl.DataFrame, "write_parquet", lambda frame, path, **more: killed(path))
    else:
        monkeypatch.setattr(figures, "forest", lambda differences, path: killed(path))
    assert world.run(*segments) == 130
    assert {path: path.read_bytes() for path in world.results.iterdir()} == files


@pytest.mark.parametrize("command", ["table2", "segments", "where"])
def test_floors_are_run_once_as_they_learn_nothing(world, untrained, command):
    assert world.run(command, "--backbones", "popularity,itemknn,sasrec", "--variants", "reland") == 0
    of = {backbone: {name for _, b, name in untrained if b == backbone} for _, backbone, _ in untrained}
    assert of["popularity"] == of["itemknn"] == {"id"}
    assert of["sasrec"] >= {"f_item", "reland", *VARIANTS["reland"].controls}
    frame = pl.read_parquet(world.results / f"{command}_made-up.parquet")
    assert set(frame.filter(pl.col("setting").str.starts_with("popularity"))["variant"]) == {"id"}


@pytest.mark.parametrize("command", ["segments", "where"])
def test_floors_alone_have_no_differences_to_show(world, untrained, command):
    assert world.run(command, "--backbones", "popularity") == 0
    text = world.text(f"{command}_made-up")
    assert "## Figures" in text
    assert "## Differences" not in text
    assert "![" not in text
    assert not (world.results / f"{command}_made-up.png").exists()


def test_a_data_set_keeps_what_was_given(world):
    path = str(world.folder / "made-up.toml")
    assert (load_dataset(path).given, load_dataset(path).name) == (path, "made-up")
    assert load_dataset("beauty").given == "beauty"


def test_case_looks_for_the_user_before_it_trains(world, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(Runner, "run_all", lambda runner, specs: calls.append(specs))
    assert world.run("case", "--user", "nosuch", "--backbone", "lightgcn") == 1
    assert "no such user" in capsys.readouterr().err
    assert calls == []


def test_case_looks_for_the_pool_before_it_trains(world, prepared, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(Runner, "run_all", lambda runner, specs: calls.append(specs))
    (world.projects / "made-up").unlink()
    copied = shutil.copytree(prepared.projects / "made-up" / "sequential", world.projects / "made-up" / "collaborative")
    shutil.rmtree(copied / ".reland" / "artifacts" / "reasoning_pool")
    assert world.run("case", "--user", "u3", "--backbone", "lightgcn") == 1
    assert "the reasoning pool of this project is not there" in capsys.readouterr().err
    assert calls == []


def test_weights_kept_by_an_older_version_are_one_error_and_are_made_again_once_deleted(world, capsys):
    case = ("case", "--user", "u3", "--backbone", "sasrec", "--variants", "f_item")
    assert world.run(*case) == 0
    capsys.readouterr()
    (path,) = world.projects.rglob("*.pt")
    weights = torch.load(path, weights_only=True)
    for older in (
        {name: value for name, value in weights.items() if ".texts." not in name},
        {name: value for name, value in weights.items() if name != "items.weight"},
    ):
        assert len(older) < len(weights)
        torch.save(older, path)
        assert world.run(*case) == 1
        error = capsys.readouterr().err
        assert error.count("error:") == 1
        assert "the kept weights do not fit the backbone" in error
        assert str(path) in error
        assert "delete the file" in error
    path.unlink()
    assert world.run(*case) == 0
    again = torch.load(path, weights_only=True)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_search_does_not_offer_a_folder_of_results_that_it_would_not_write_to(world, capsys):
    with pytest.raises(SystemExit):
        world.run("search", "--backbone", "lightgcn", "--results=elsewhere")
    assert "unrecognized arguments: --results=elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seeds=3", "--suffix=x", "--note=x"])
@pytest.mark.parametrize("command", [("search", "--backbone", "lightgcn"), ("case", "--user", "u3")])
def test_commands_that_only_print_do_not_offer_what_a_page_takes(world, capsys, command, option):
    with pytest.raises(SystemExit):
        world.run(*command, option)
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err
    assert world.raw() == {}


def test_a_folder_of_this_machine_is_not_shown_in_either_way_of_giving_it():
    given = ["table2", "--projects=/abs/path", "--results", "/abs", "--seeds=2", "--dataset=d.toml", "--note=a = /b"]
    assert shown_command(given) == (
        "python -m ranking.experiments table2 --projects=DIR --results DIR --seeds=2 --dataset=d.toml '--note=a = /b'"
    )
    given = ["table2", "--dataset", "/home/me/shop.toml", "--projects", "/home/me/projects"]
    assert shown_command(given) == "python -m ranking.experiments table2 --dataset shop.toml --projects DIR"
