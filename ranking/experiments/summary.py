"""One table of all comparisons of a backbone with both controls, from the results that other experiments wrote."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import polars as pl

from ranking.experiments import tables
from ranking.experiments.pages import Compared, Page
from ranking.experiments.table2 import READING
from ranking.experiments.variants import variant
from reland_features.artifacts import write_atomically
from reland_features.errors import ArtifactError

SUMMARY = "one table of all comparisons of a backbone with both controls, from the results that are there"
_NAME = "summary"
_NOT_HERE = (
    "Nothing is corrected for the number of comparisons: of so many, some lie above 0 by chance, and there were more "
    "looks than rows. Of what several pages compare, the row with the most random seeds stands here. "
    "Not here are activity levels, unmasked ranking, HR@10, the users who inherit another's text "
    "(`--without-seeds`), quick pages, and whatever is no backbone (MaskNet, XGBoost). A setting of the *first* n "
    "interactions is of new users, and tests the next one."
)


@dataclass(frozen=True)
class Row:
    """A variant beside its base and both controls.

    Two rows are equal where all is but how they are called: the same runs stand under "sasrec", "sasrec, last 10" and
    "sasrec, 604 seeds", and are one comparison.

    Parameters
    ----------
    page, setting : str
        Where it stands, and what it is called there.
    compared : Compared
        What is compared, whatever the random seeds.
    without, having : float
        Mean of the base and of the variant.
    base, shuffled, constant : tuple of float
        Difference to each: value, low, high.
    seeds : int
        Random seeds that the variant shares with all three.
    p_seeds : tuple of float or None
        Two-sided p of the paired t-test over seeds, of the three differences; None with one seed.
    """

    page: str = field(compare=False)
    setting: str = field(compare=False)
    compared: Compared = field(compare=False)
    variant: str
    without: float
    having: float
    base: tuple[float, ...]
    shuffled: tuple[float, ...]
    constant: tuple[float, ...]
    seeds: int
    p_seeds: tuple[float | None, ...]
    verdict: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--results", type=Path, default=Path("docs/results/ranking"), metavar="DIR")


def summarise(options: argparse.Namespace) -> list[Path]:
    """Read every page's parquet and write the table; quick pages, and what stands on an earlier one, are left out.

    Raises
    ------
    ArtifactError
        No page has a difference in it, or a page's parquet cannot be read.
    """
    found = one_each(row for path in sorted(options.results.glob("*.parquet")) for row in rows_of(Page(path)))
    if not found:
        raise ArtifactError(
            "there are no results to sum up",
            where=str(options.results),
            expected="the parquet of a table2, table3, ablation, seeds or where",
            hint="python -m ranking.experiments table2 --dataset beauty",
        )
    gains = [row for row in found if row.verdict.startswith("gain")]
    alone = sum(row.seeds == 1 for row in gains)
    count = (
        f"{len(found)} comparison{'s' * (len(found) != 1)} with both controls, {len(gains)} "
        f"gain{'s' * (len(gains) != 1)}, {alone} of them with one random seed only."
    )
    text = "\n\n".join(
        [
            "# Comparisons of a backbone with both controls",
            "`python -m ranking.experiments summary`, from the pages named in the first column, which say how each "
            "was made.",
            f"NDCG@10 on test, seen items masked. {count} {READING} {_NOT_HERE}",
            table(found),
        ]
    )
    path = options.results / f"{_NAME}.md"
    write_atomically(path, text + "\n")
    return [path]


def rows_of(page: Page) -> list[Row]:
    """Return a row for each variant of a page whose base and controls stand beside it; none for a quick page.

    Raises
    ------
    ArtifactError
        The file cannot be read.
    """
    if page.name.startswith(("segments_", "next_pool_", "match_or_text_")):  # of parts of another page's users
        return []
    if "against" not in page.frame.columns or page.is_quick or page.is_without_seeds:
        return []
    frame = page.frame.filter((pl.col("metric") == "ndcg") & (pl.col("convention") == "masked"))
    differences = frame.filter(pl.col("role").is_in(["base", "control"]))
    measured = frame.filter(pl.col("mean").is_not_null())
    means = {(row["setting"], row["variant"]): row["mean"] for row in measured.iter_rows(named=True)}
    rows = []
    for (setting, name, _), verdict in tables.verdicts(differences).items():
        chosen = variant(name)
        if verdict == "controls missing" or not chosen.base:
            continue
        own = differences.filter((pl.col("setting") == setting) & (pl.col("variant") == name))
        against = {row["against"]: row for row in own.iter_rows(named=True)}
        others = [against[other] for other in (chosen.base, *chosen.controls)]
        base, shuffled, constant = ((other["value"], other["low"], other["high"]) for other in others)
        p_seeds = tuple(None if isnan(other["p_seeds"]) else other["p_seeds"] for other in others)
        seeds = min(row["seeds"] for row in against.values())
        without, having = means[setting, chosen.base], means[setting, name]
        compared = page.compared(setting, name, (chosen.base, *chosen.controls))
        figures = (without, having, base, shuffled, constant, seeds, p_seeds, verdict)
        rows.append(Row(page.name, setting, compared, name, *figures))
    return rows


def one_each(rows: Iterable[Row]) -> list[Row]:
    """Keep one row of each comparison: that with the most random seeds, and of equal ones the first.

    The runs of a page with one seed are among those of a page with five: to count both would be to count them twice.
    """
    rows, called, kept = list(rows), dict[Row, Compared](), dict[Compared, Row]()
    for row in rows:
        compared = called.setdefault(row, row.compared)  # the same runs, under another name
        if compared not in kept or row.seeds > kept[compared].seeds:
            kept[compared] = row
    return sorted(kept.values(), key=rows.index)


def table(found: Sequence[Row]) -> str:
    """Lay the rows out, each with its page."""
    differences = ["− without", "− shuffled", "− constant"]
    header = ["page", "", "variant", "without", "with", *differences, "seeds", "p over seeds of the three", "gain?"]
    lines = [
        [
            f"[{row.page}]({row.page}.md)",
            row.setting,
            variant(row.variant).label,
            f"{row.without:.4f}",
            f"{row.having:.4f}",
            *("{:+.4f} ({:+.4f} to {:+.4f})".format(*other) for other in (row.base, row.shuffled, row.constant)),
            str(row.seeds),
            ", ".join(tables.p_value(p) for p in row.p_seeds) if row.seeds > 1 else "–",
            row.verdict,
        ]
        for row in found
    ]
    return tables.markdown(header, lines, left=3)
