"""The summary: which rows it takes from pages, by their parquet and, where they are older, by their markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from made_up import made_up
from scipy.stats import ttest_rel

from ranking.experiments import tables
from ranking.experiments.__main__ import main
from ranking.experiments.runs import Run
from ranking.experiments.tables import Group

NDCG = {
    "f_item": [0.5, 0.0, 0.5, 0.0],
    "reland": [1.0, 0.5, 0.75, 0.5],
    "reland_shuffled": [0.5, 0.5, 0.5, 0.0],
    "reland_constant": [0.5, 0.0, 0.0, 0.25],
}


def write_page(
    folder: Path, name: str, settings: list[str], ndcg: dict[str, list[float]], *, seeds: int = 1, spec=None, **facts
) -> Path:
    """Write the parquet of a page; each seed adds a little to every user's NDCG."""

    def run(values: list[float], seed: int) -> Run:
        made = made_up([value * (1 + seed / 100) for value in values], seed=seed)
        return replace(made, facts={**made.facts, **facts, "spec": {**made.facts["spec"], **(spec or {})}})

    groups = [
        Group(setting, variant, tuple(run(values, seed) for seed in range(seeds)))
        for setting in settings
        for variant, values in ndcg.items()
    ]
    path = folder / f"{name}.parquet"
    pl.concat([tables.figures(groups), tables.differences(groups)], how="diagonal").write_parquet(path)
    return path


def as_older(path: Path, command: str) -> None:
    """Make of a page one from before its parquet said of what runs it is."""
    pl.read_parquet(path).drop("without_seeds", "spec").write_parquet(path)
    path.with_suffix(".md").write_text(f"# T\n\n`{command}`\n\nMachine: a\n")


def summary_lines(folder: Path) -> list[str]:
    assert main(["summary", "--results", str(folder)]) == 0
    return [line for line in (folder / "summary.md").read_text().splitlines() if line.startswith("| [")]


def pages_of(folder: Path) -> list[str]:
    """Return the page of each row of the summary."""
    return [line.removeprefix("| [").partition("]")[0] for line in summary_lines(folder)]


def test_the_same_runs_under_several_settings_are_one_comparison_of_the_first_page(tmp_path):
    write_page(tmp_path, "ablation_d_last10", ["sasrec"], NDCG)
    write_page(tmp_path, "seeds_d_last10", ["sasrec, 604 seeds"], NDCG)
    write_page(tmp_path, "where_d", ["sasrec, last 10", "sasrec"], NDCG)
    lines = summary_lines(tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith("| [ablation_d_last10](ablation_d_last10.md) | sasrec | + ReLand |")
    assert "1 comparison with both controls" in (tmp_path / "summary.md").read_text()


def test_what_a_page_tests_besides_is_no_comparison_of_the_summary(tmp_path):
    path = write_page(tmp_path, "table3_d", ["sasrec"], NDCG)
    without = summary_lines(tmp_path)
    groups = [Group("sasrec", name, (made_up(NDCG[name]),)) for name in ("reland", "reland_constant")]
    others = [Group("sasrec", "kar", (made_up([1.0] * 4),)), Group("other", "reland", (made_up([1.0] * 4),))]
    pairs = [(("sasrec", "reland"), (other.setting, other.variant)) for other in others]
    besides = tables.differences_between([*groups, *others], pairs, "method")
    assert besides.height == 8
    pl.concat([besides, pl.read_parquet(path)], how="diagonal").write_parquet(path)
    assert summary_lines(tmp_path) == without
    assert len(without) == 1


def test_of_a_comparison_on_several_pages_the_row_with_the_most_seeds_stands(tmp_path):
    write_page(tmp_path, "table2_d", ["sasrec"], NDCG)
    write_page(tmp_path, "table2_d_three", ["sasrec"], NDCG, seeds=3)
    write_page(tmp_path, "where_d_two", ["sasrec, all"], NDCG, seeds=2)
    assert pages_of(tmp_path) == ["table2_d_three"]


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "e"},
        {"source": "strong"},
        {"backbone": "duorec"},
        {"keep_last": 5},
        {"seed_users": 0.5},
        {"overrides": [["options.dropout", 0.3]]},
        {"known": 1},
    ],
)
def test_another_comparison_stands_beside_that_with_more_seeds(tmp_path, other):
    write_page(tmp_path, "table2_d", ["sasrec"], NDCG, spec=other)
    write_page(tmp_path, "where_d_two", ["sasrec"], NDCG, seeds=2)
    assert pages_of(tmp_path) == ["table2_d", "where_d_two"]


@pytest.mark.parametrize("older", [("one",), ("five",), ("one", "five")])
def test_what_an_older_page_compares_is_told_by_its_command_and_settings(tmp_path, older):
    spec = {"source": "strong", "keep_last": 10}
    one = write_page(tmp_path, "table3_d", ["sasrec"], NDCG, spec=spec)
    five = write_page(tmp_path, "where_d", ["sasrec, last 10"], NDCG, seeds=5, spec=spec)
    if "one" in older:
        as_older(one, "python -m ranking.experiments table3 --dataset d --source strong --keep-last 10")
    if "five" in older:
        as_older(five, "python -m ranking.experiments where --dataset=d.toml --source=strong --keep-last 5,10")
    assert pages_of(tmp_path) == ["where_d"]


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("table2 --dataset e --source strong", "sasrec"),
        ("table2 --dataset d", "sasrec"),
        ("table2 --dataset d --source strong", "duorec"),
        ("where --dataset d --source strong --keep-last 5,10", "sasrec, last 10"),
        ("seeds --dataset d --source strong", "sasrec, 30 seeds"),
        ("table2 --dataset d --source strong --trials 6", "sasrec"),
    ],
)
def test_another_comparison_of_an_older_page_stands_beside_that_with_more_seeds(tmp_path, command, setting):
    path = write_page(tmp_path, "where_d", [setting], NDCG)
    as_older(path, f"python -m ranking.experiments {command}")
    write_page(tmp_path, "table2_d", ["sasrec"], NDCG, seeds=2, spec={"source": "strong"})
    assert pages_of(tmp_path) == ["table2_d", "where_d"]


def test_what_a_page_tests_besides_changes_no_row(tmp_path):
    path = write_page(tmp_path, "table3_d", ["sasrec"], NDCG, seeds=2)
    without = summary_lines(tmp_path)
    frame = pl.read_parquet(path)
    besides = frame.filter(role="base").with_columns(against=pl.lit("kar"), role=pl.lit("method"), seeds=1, low=-1.0)
    pl.concat([frame, besides], how="diagonal_relaxed").write_parquet(path)
    assert summary_lines(tmp_path) == without


def test_an_older_page_that_shows_no_command_stands_for_itself(tmp_path):
    for name, seeds in (("table2_d", 2), ("table2_d_x", 1)):
        path = write_page(tmp_path, name, ["sasrec"], NDCG, seeds=seeds)
        as_older(path, "")
        path.with_suffix(".md").unlink()
    assert pages_of(tmp_path) == ["table2_d", "table2_d_x"]


def test_texts_that_no_llm_wrote_are_one_comparison_whatever_the_source(tmp_path):
    ndcg = {name.replace("reland", "mean_text"): values for name, values in NDCG.items()}
    for name, source, seeds in (("table2_d", "", 1), ("table2_d_strong", "strong", 2)):
        path = write_page(tmp_path, name, ["sasrec"], ndcg, seeds=seeds)
        as_older(path, f"python -m ranking.experiments table2 --dataset d --source '{source}' --variants mean_text")
    assert pages_of(tmp_path) == ["table2_d_strong"]


def test_the_summary_says_how_many_gains_rest_on_one_seed(tmp_path):
    write_page(tmp_path, "table2_a", ["sasrec"], NDCG)
    write_page(tmp_path, "table2_b", ["duorec"], NDCG, seeds=2, spec={"backbone": "duorec"})
    write_page(tmp_path, "table2_c", ["gru4rec"], {**NDCG, "reland": [0.0] * 4}, spec={"backbone": "gru4rec"})
    summary_lines(tmp_path)
    said = (tmp_path / "summary.md").read_text()
    assert "3 comparisons with both controls, 2 gains, 1 of them with one random seed only." in said


def test_a_mean_of_exactly_0_stands_in_the_summary(tmp_path):
    write_page(tmp_path, "table2_d", ["lightgcn"], {**NDCG, "f_item": [0.0] * 4})
    assert summary_lines(tmp_path)[0].startswith("| [table2_d](table2_d.md) | lightgcn | + ReLand | 0.0000 | 0.6875 |")


def test_the_summary_shows_the_test_over_seeds_where_there_are_several(tmp_path):
    groups = [
        Group("lightgcn", name, tuple(made_up(values, seed=seed) for seed, values in enumerate(per_seed)))
        for name, per_seed in {
            "f_item": ([0.0, 0.0], [0.25, 0.25]),
            "reland": ([0.5, 0.5], [1.0, 1.0]),
            "reland_shuffled": ([0.25, 0.25], [0.5, 0.5]),
            "reland_constant": ([0.5, 0.5], [1.0, 1.0]),
        }.items()
    ]
    pl.concat([tables.figures(groups), tables.differences(groups)], how="diagonal").write_parquet(
        tmp_path / "table2_d.parquet"
    )
    expected = [ttest_rel([0.5, 1.0], others).pvalue for others in ([0.0, 0.25], [0.25, 0.5])]
    shown = ", ".join(f"{p:.3f}".removeprefix("0") for p in expected)
    assert f" | 2 | {shown}, 1.000 | " in summary_lines(tmp_path)[0]
    write_page(tmp_path, "table2_d", ["lightgcn"], NDCG)
    assert " | 1 | – | " in summary_lines(tmp_path)[0]


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        ("", 1),
        (" --without-seeds", 0),
        (" --note 'One line.\n`--without-seeds` is another.'", 1),
        (" --note 'One line.\nAnother.' --without-seeds", 0),
        (" --note 'One line.\nAnother, cut short --without-seeds", 0),
    ],
)
def test_a_part_of_the_users_of_an_older_page_is_told_by_its_command(tmp_path, more, rows):
    path = write_page(tmp_path, "table2_shop_segments_without_seeds", ["lightgcn"], NDCG)
    as_older(path, f"python -m ranking.experiments table2 --dataset shop_segments_without_seeds.toml{more}")
    other = write_page(tmp_path, "where_d", ["lightgcn, last 10"], {**NDCG, "reland": [1.0, 1.0, 0.75, 0.5]})
    other.with_suffix(".md").write_text("# T\n")
    assert len(summary_lines(tmp_path)) == 1 + rows


def test_a_part_of_the_users_is_told_by_the_parquet_whatever_the_markdown_says(tmp_path):
    write_page(tmp_path, "table2_d", ["lightgcn"], NDCG)
    for name, page in (("table2_a", "# T\n"), ("table2_b", None)):
        path = write_page(tmp_path, name, ["lightgcn"], {**NDCG, "reland": [1.0, 1.0, 0.75, 0.5]}, left_out=2)
        if page:
            path.with_suffix(".md").write_text(page)
    assert pages_of(tmp_path) == ["table2_d"]


@pytest.mark.parametrize(
    "page, command",
    [
        ("# T\n\n`python -m ranking.experiments table2 --dataset d --suffix x`\n", "table2 --dataset d --suffix x"),
        (None, "table2 --dataset d"),
    ],
)
def test_a_page_cut_short_is_named_with_the_command_that_makes_it_anew(tmp_path, capsys, page, command):
    write_page(tmp_path, "table2_a", ["lightgcn"], NDCG)
    path = write_page(tmp_path, "table2_d_x", ["lightgcn"], NDCG)
    path.write_bytes(path.read_bytes()[:-50])
    if page:
        path.with_suffix(".md").write_text(page)
    assert main(["summary", "--results", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"where:    {path}" in said
    assert f"next:     python -m ranking.experiments {command}, which" in said
    assert not (tmp_path / "summary.md").exists()
