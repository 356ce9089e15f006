"""The experiments beside Table 2 on a toy world: ablation, Table 3, seeds, cuts, searches and the case study."""

from __future__ import annotations

import re
import tomllib

import polars as pl
import pytest

from ranking import fitting
from ranking.experiments import runner
from ranking.experiments.runs import Run
from ranking.experiments.variants import main_of

TABLE2 = ("table2", "--backbones", "lightgcn")


@pytest.mark.slow
def test_ablation_says_what_is_missing_and_how_to_make_it(world):
    assert world.run("ablation", "--backbones", "lightgcn") == 0
    text = world.text("ablation_made-up")
    assert "ReLand w/o f_item, shuffled" in text
    assert "w/o recommendation-oriented prompting: not run" in text
    assert "prepare --dataset made-up.toml --tables DIR --projects DIR --source direct" in text
    assert str(world.folder) not in text


@pytest.mark.slow
def test_table3_counts_what_each_method_asks_of_the_llm(world):
    assert world.run("table3", "--backbones", "lightgcn") == 0
    costs = pl.read_parquet(world.results / "table3_made-up.parquet").filter(pl.col("inferences").is_not_null())
    users, items = world.toy.interactions["user_id"].n_unique(), 30
    events = world.toy.interactions.height + world.toy.holdout.height
    assert dict(costs.select("variant", "inferences").iter_rows()) == {
        "kar": users + items,
        "slim": events,
        "reland": 6,
    }
    # 36 s for 6 calls
    assert costs.filter(pl.col("variant") == "reland")["hours"].item() == pytest.approx(36 / 3600)


@pytest.mark.slow
def test_seeds_counts_tokens_of_the_seeds_that_are_kept(world):
    assert world.run("seeds", "--backbones", "lightgcn", "--fractions", "0.5,1") == 0
    text = world.text("seeds_made-up")
    # Seeds were drawn from the last to the first: 105 + 104 + 103 prompt tokens and 3 x 10 are left of a half.
    assert "| lightgcn, 3 seeds | 3 | 342 |" in text
    assert "| lightgcn, 6 seeds | 6 | 675 |" in text


@pytest.mark.slow
def test_seeds_of_cut_users_have_files_of_their_own_that_say_so(world):
    assert world.run("seeds", "--backbones", "lightgcn", "--fractions", "1", "--keep-last", "2") == 0
    text = world.text("seeds_made-up_last2")
    assert text.startswith("# Seed users on made-up (Figure 6), users cut to their last 2\n")
    assert "Cut users are trained on" in text
    specs = [Run.read(path).facts["spec"] for path in (world.results / "raw").rglob("*.parquet")]
    assert [spec["keep_last"] for spec in specs] == [2] * 4


@pytest.mark.slow
def test_where_cuts_the_training_part(world):
    assert world.run("where", "--backbones", "lightgcn", "--variants", "reland", "--keep-last", "2,all") == 0
    frame = pl.read_parquet(world.results / "where_made-up.parquet")
    assert set(frame["setting"]) == {"lightgcn, last 2", "lightgcn"}
    runs = [Run.read(path).facts for path in (world.results / "raw").rglob("*.parquet")]
    found = [(facts["spec"]["keep_last"], facts["hyperparameters"]["fit"]["max_epochs"]) for facts in runs]
    assert sorted(found, key=str) == [(2, 2)] * 4 + [(None, 3)] * 4


def test_search_prints_the_best_by_validation_as_toml_and_never_ranks_the_test_part(world, capsys, monkeypatch):
    parts = []

    def watched(backbone, part, *users):
        parts.append(part)
        return evaluate(backbone, part, *users)

    evaluate = fitting.evaluate
    for module in (fitting, runner):
        monkeypatch.setattr(module, "evaluate", watched)
    assert world.run("search", "--backbone", "lightgcn", "--trials", "4") == 0
    assert len(parts) > 4
    assert set(parts) == {"validation"}
    printed = capsys.readouterr()
    found = tomllib.loads(printed.out)["collaborative"]["lightgcn"]["fit"]
    runs = [Run.read(path) for path in (world.projects / "searches").rglob("*.parquet")]
    best = max(runs, key=lambda run: run.ndcg["masked"].mean()).facts
    assert f"# validation NDCG@10 {best['best']['ndcg@10_masked']:.4f}: " in printed.out
    assert (found["learning_rate"], found["weight_decay"]) == (
        best["hyperparameters"]["fit"]["learning_rate"],
        best["hyperparameters"]["fit"]["weight_decay"],
    )
    assert world.raw() == {}
    world.run("search", "--backbone", "lightgcn", "--trials", "4")
    assert "4 finished before, 0 to do" in capsys.readouterr().err


def test_a_grid_takes_the_place_of_the_lists_in_the_file(world, capsys):
    grid = ("fit.schedule=cosine", "fit.max_epochs=2", "options.layers=[1, 2]")
    assert world.run("search", "--backbone", "lightgcn", *(f"--grid={each}" for each in grid)) == 0
    runs = [Run.read(path).facts["hyperparameters"] for path in (world.projects / "searches").rglob("*.parquet")]
    tried = [(run["options"]["layers"], run["fit"]["schedule"], run["fit"]["max_epochs"]) for run in runs]
    assert sorted(tried) == [(1, "cosine", 2), (2, "cosine", 2)]
    assert "'--grid=options.layers=[1, 2]'" in capsys.readouterr().out, "the command says what was searched"


@pytest.mark.parametrize(
    "grid, message",
    [
        (["fit.learning_rate"], "--grid takes KEY=VALUE"),
        (["fit.learning_rate=[]"], "takes a list as TOML writes it"),
        (["fit.learning_rate=[0.1"], "takes a list as TOML writes it"),
        (["fit.learning_rate=0.1", "fit.learning_rate=0.2"], "names a key for the second time"),
        (["fit.learning_rat=0.1"], "a training setting has no such name"),
        (["options.layers=two"], "an option of a backbone is of the wrong type"),
        (["learning_rate=0.1"], "a hyperparameter has no such name"),
    ],
)
def test_a_wrong_grid_is_one_error_before_any_trial(world, capsys, grid, message):
    assert world.run("search", "--backbone", "lightgcn", *(f"--grid={each}" for each in grid)) == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert message in error
    assert not (world.projects / "searches").exists()


@pytest.mark.parametrize(("more", "epochs"), [(("--keep-last", "2"), 2), (("--quick",), 1)])
def test_a_search_of_cut_or_quick_trainings_does_not_shorten_them(world, more, epochs):
    file = world.folder / "made-up.toml"
    lists = 'search = { "fit.learning_rate" = [0.05, 0.01], "fit.max_epochs" = [1, 2, 3] }'
    file.write_text(re.sub(r"search = .*", lists, file.read_text()))
    assert world.run("search", "--backbone", "lightgcn", *more) == 0
    runs = [Run.read(path).facts for path in (world.projects / "searches").rglob("*.parquet")]
    assert [facts["hyperparameters"]["fit"]["max_epochs"] for facts in runs] == [epochs] * 2


def test_trials_give_each_variant_the_best_of_the_same_combinations(world, capsys):
    assert world.run(*TABLE2, "--trials", "4") == 0
    searched = [Run.read(path).facts for path in (world.projects / "searches").rglob("*.parquet")]
    assert len(searched) == 3 * 4  # id, f_item, ReLand; a control takes ReLand's
    best = {}
    for facts in sorted(searched, key=lambda each: each["best"]["ndcg@10_masked"]):
        best[facts["spec"]["variant"]] = facts["hyperparameters"]["fit"]
    runs = [Run.read(path).facts for path in (world.results / "raw").rglob("*.parquet")]
    assert len(runs) == 5
    for facts in runs:
        assert facts["part"] == "test"
        assert facts["hyperparameters"]["fit"] == best[main_of(facts["spec"]["variant"])]
    text = world.text("table2_made-up_trials4")
    assert "## Hyperparameters" in text
    assert "(at most 4)" in text

    assert world.run(*TABLE2, "--trials", "4") == 0
    said = capsys.readouterr().err
    assert "12 finished before, 0 to do" in said
    assert "5 finished before, 0 to do" in said
    assert world.run(*TABLE2, "--trials", "0") == 1
    assert "--trials is at least 1" in capsys.readouterr().err


def test_floors_have_nothing_to_search(world):
    assert world.run("table2", "--backbones", "popularity", "--variants", "id", "--trials", "2") == 0
    assert "popularity" in world.text("table2_made-up_trials2")


def test_a_trial_with_the_hyperparameters_of_the_file_is_the_run_without_a_search(world):
    file = world.folder / "made-up.toml"
    one = '{ "fit.learning_rate" = [0.05], "fit.weight_decay" = [0.0] }'
    file.write_text(re.sub(r"search = .*", f"search = {one}", file.read_text()))
    assert world.run(*TABLE2) == 0
    written = world.raw()
    assert world.run(*TABLE2, "--trials", "4") == 0
    assert world.raw() == written
    assert "as in the data set's file" in world.text("table2_made-up_trials4")


def test_case_prints_the_rationale_and_both_lists_and_writes_nothing(world, capsys):
    assert world.run("case", "--user", "u3", "--backbone", "lightgcn") == 0
    text = capsys.readouterr().out
    held = world.toy.holdout.filter((pl.col("user_id") == "u3") & (pl.col("holdout_rank") == 1))["item_id"].item()
    title = dict(world.toy.items.select("item_id", "title").iter_rows())[held]
    assert f"Held out: {title}" in text
    assert "most similar seed:" in text
    assert "|  | + f_item | + ReLand |" in text
    assert list(world.results.glob("*.md")) == []
