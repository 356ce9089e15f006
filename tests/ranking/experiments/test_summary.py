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
from ranking.experiments.tables import Group

NDCG = {
    "f_item": [0.5, 0.0, 0.5, 0.0],
    "reland": [1.0, 0.5, 0.75, 0.5],
    "reland_shuffled": [0.5, 0.5, 0.5, 0.0],
    "reland_constant": [0.5, 0.0, 0.0, 0.25],
}


def write_page(folder: Path, name: str, settings: list[str], ndcg: dict[str, list[float]], **facts) -> Path:
    runs = {variant: made_up(values) for variant, values in ndcg.items()}
    groups = [
        Group(setting, variant, (replace(run, facts={**run.facts, **facts}),))
        for setting in settings
        for variant, run in runs.items()
    ]
    path = folder / f"{name}.parquet"
    pl.concat([tables.figures(groups), tables.differences(groups)], how="diagonal").write_parquet(path)
    return path


def summary_lines(folder: Path) -> list[str]:
    assert main(["summary", "--results", str(folder)]) == 0
    return [line for line in (folder / "summary.md").read_text().splitlines() if line.startswith("| [")]


def test_the_same_runs_under_several_settings_are_one_comparison_of_the_first_page(tmp_path):
    write_page(tmp_path, "ablation_d_last10", ["sasrec"], NDCG)
    write_page(tmp_path, "seeds_d_last10", ["sasrec, 604 seeds"], NDCG)
    write_page(tmp_path, "where_d", ["sasrec, last 10", "sasrec"], NDCG)
    lines = summary_lines(tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith("| [ablation_d_last10](ablation_d_last10.md) | sasrec | + ReLand |")
    assert "1 comparison with both controls" in (tmp_path / "summary.md").read_text()


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
    pl.read_parquet(path).drop("without_seeds").write_parquet(path)
    command = f"`python -m ranking.experiments table2 --dataset shop_segments_without_seeds.toml{more}`"
    path.with_suffix(".md").write_text(f"# T\n\n{command}\n\nMachine: a\n")
    other = write_page(tmp_path, "where_d", ["lightgcn, last 10"], {**NDCG, "reland": [1.0, 1.0, 0.75, 0.5]})
    other.with_suffix(".md").write_text("# T\n")
    assert len(summary_lines(tmp_path)) == 1 + rows


def test_a_part_of_the_users_is_told_by_the_parquet_whatever_the_markdown_says(tmp_path):
    write_page(tmp_path, "table2_d", ["lightgcn"], NDCG)
    for name, page in (("table2_a", "# T\n"), ("table2_b", None)):
        path = write_page(tmp_path, name, ["lightgcn"], {**NDCG, "reland": [1.0, 1.0, 0.75, 0.5]}, left_out=2)
        if page:
            path.with_suffix(".md").write_text(page)
    assert [line.split(" | ")[0] for line in summary_lines(tmp_path)] == ["| [table2_d](table2_d.md)"]


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
