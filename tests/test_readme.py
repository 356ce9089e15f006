"""The README shows the examples as they are, and its commands, and those of the guides, exist."""

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
GUIDES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
GUIDED = "\n".join((ROOT / page).read_text() for page in ["README.md", *GUIDES])


@pytest.mark.parametrize(
    "name", ["own_encoder.py", "own_llm.py", "own_ranker.py", "wrap_your_ranker.py", "own_llm_server.toml"]
)
def test_an_example_stands_in_the_readme_as_it_is(name):
    assert (ROOT / "examples" / name).read_text().rstrip() in README


def test_every_reland_command_that_is_told_exists():
    used = set(re.findall(r"(?:^|`)reland ([a-z]+)", GUIDED, flags=re.MULTILINE))
    assert {"run", "tune", "pool", "ledger"} <= used <= set(get_command(app).commands)


def test_every_option_of_a_reland_command_line_exists():
    commands = get_command(app).commands
    for line in re.findall(r"^\$? ?reland [a-z]+ .*$", GUIDED, flags=re.MULTILINE):
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


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", *GUIDES])
def test_every_link_to_a_section_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", (ROOT / page).read_text())
    for target, anchor in links:
        assert anchor in anchors((ROOT / page).parent / target if target else ROOT / page), f"{target}#{anchor}"


@pytest.mark.parametrize(
    "page", [page for page in ["README.md", *GUIDES] if "**On this page:**" in (ROOT / page).read_text()]
)
def test_every_section_of_a_page_stands_in_its_contents(page):
    text = (ROOT / page).read_text()
    contents = re.search(r"\*\*On this page:\*\*.+?\n\n", text, flags=re.DOTALL)[0]
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert [" ".join(name.split()) for name in re.findall(r"\[([^]]+)\]\(#", contents)] == sections


def test_every_guide_stands_in_the_readme():
    assert {f"({guide})" for guide in GUIDES} <= set(re.findall(r"\(docs/[a-z_]+\.md\)", README))


def test_every_page_of_results_stands_in_their_index():
    folder = ROOT / "docs" / "results"
    linked = set(re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text()))
    pages = {str(page.relative_to(folder)) for page in folder.rglob("*.md")} - {"README.md"}
    assert sorted(pages - linked) == []


@pytest.mark.parametrize(
    "page, after, backbones",
    [
        (
            "table2_beauty",
            "## A ranker with learned embeddings",
            ["SASRec", "GRU4Rec", "LightGCN", "NGCF", "NeuMF", "DuoRec"],
        ),
        (
            "table2_ml-1m_strong",
            "### Whole histories, a strong LLM",
            ["LightGCN", "NGCF", "NeuMF", "GRU4Rec", "SASRec", "DuoRec"],
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


def test_the_backbones_beside_published_figures_are_those_of_the_results():
    """A row that says how many seeds is of the page with so many."""
    table = re.findall(
        r"^\| (\w+) \| (masked|unmasked) \|(.+)\|$", (ROOT / "docs/rankers.md").read_text(), flags=re.MULTILINE
    )
    assert len(table) == 8
    for backbone, convention, cells in table:
        beauty, _, movielens, _ = cells.split("|")
        for tables, featured, cell in (("beauty", "beauty", beauty), ("ml-1m", "ml-1m_strong", movielens)):
            page = f"{featured}_{backbone.lower()}_five_seeds" if "seeds" in cell else f"{tables}_id_only"
            measured = pl.read_parquet(ROOT / "docs" / "results" / "ranking" / f"table2_{page}.parquet").filter(
                pl.col("variant") == "id", pl.col("setting") == backbone.lower(), pl.col("convention") == convention
            )
            told = [float(number) for number in cell.split("(")[0].split(",")]
            assert told == pytest.approx(
                [measured.filter(metric=name)["mean"].item() for name in ("hr", "ndcg")], abs=5.1e-5
            )


def test_no_figure_is_left_to_be_filled_in():
    assert "@@" not in GUIDED
