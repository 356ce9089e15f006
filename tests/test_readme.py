"""The README shows the examples as they are, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from typer.main import get_command

from reland_features.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GAINS = (ROOT / "docs" / "when_to_expect_a_gain.md").read_text()
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "name", ["own_encoder.py", "own_llm.py", "own_ranker.py", "wrap_your_ranker.py", "own_llm_server.toml"]
)
def test_an_example_stands_in_the_readme_as_it_is(name):
    assert (ROOT / "examples" / name).read_text().rstrip() in README


def test_every_reland_command_of_the_readme_exists():
    commands = get_command(app).commands
    used = set(re.findall(r"^reland ([a-z]+)", README, flags=re.MULTILINE)) | set(
        re.findall(r"`reland ([a-z]+)", README)
    )
    assert used
    assert used <= set(commands)


def test_every_option_of_a_reland_command_line_exists():
    commands = get_command(app).commands
    for line in re.findall(r"^\$? ?reland [a-z]+ .*$", README, flags=re.MULTILINE):
        words = line.removeprefix("$ ").split("#")[0].split()
        command = commands[words[1]]
        command = getattr(command, "commands", {}).get("".join(words[2:3]), command)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_file_exists(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "docs/when_to_expect_a_gain.md"])
def test_every_link_within_a_page_leads_somewhere(page):
    text = (ROOT / page).read_text()
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors(text)


def test_every_section_of_the_readme_stands_in_its_contents():
    contents = README[README.index("**On this page:**") : README.index("## Two commands")]
    sections = re.findall(r"^## (.+)$", README, flags=re.MULTILINE)
    assert [" ".join(name.split()) for name in re.findall(r"\[([^]]+)\]\(#", contents)] == sections


@pytest.mark.parametrize(
    "page, after, backbones",
    [
        ("table2_beauty", "## A ranker with learned embeddings", ["SASRec", "GRU4Rec", "LightGCN", "NeuMF"]),
        (
            "table2_ml-1m_strong",
            "### Whole histories, a strong LLM",
            ["LightGCN", "NGCF", "NeuMF", "GRU4Rec", "SASRec"],
        ),
    ],
)
def test_the_figures_of_table_2_that_are_told_are_those_of_the_results(page, after, backbones):
    frame = pl.read_parquet(ROOT / "docs" / "results" / "ranking" / f"{page}.parquet")
    of = frame.filter((pl.col("metric") == "ndcg") & (pl.col("convention") == "masked"))
    means = {(r["setting"], r["variant"]): r["mean"] for r in of.iter_rows(named=True) if r["mean"] is not None}
    section = re.split(r"^#+ ", GAINS[GAINS.index(after) + len(after) :], maxsplit=1, flags=re.MULTILINE)[0]
    told = re.findall(r"^\| (\w+) \|((?: [.\d]+ \|){5})", section, flags=re.MULTILINE)
    assert [backbone for backbone, _ in told] == backbones
    for backbone, cells in told:
        variants = ("id", "f_item", "reland", "reland_shuffled", "reland_constant")
        measured = [means[backbone.lower(), variant] for variant in variants]
        assert [float(cell) for cell in cells.strip(" |").split(" | ")] == pytest.approx(measured, abs=5.1e-5)


def test_no_figure_is_left_to_be_filled_in():
    assert "@@" not in README
