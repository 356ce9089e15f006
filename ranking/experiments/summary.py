"""One table of all comparisons of a backbone with both controls, from the results that other experiments wrote."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import polars as pl

from ranking.experiments import tables
from ranking.experiments.pages import Page
from ranking.experiments.table2 import READING
from ranking.experiments.variants import variant
from reland_features.artifacts import write_atomically
from reland_features.errors import ArtifactError

SUMMARY = "one table of all comparisons of a backbone with both controls, from the results that are there"
_NAME = "summary"
_NOT_HERE = (
    "Nothing is corrected for the number of comparisons: of so many, some lie above 0 by chance, and there were more "
    "looks than rows. Not here are activity levels, unmasked ranking, HR@10, the users who inherit another's text "
    "(`--without-seeds`), quick pages, and whatever is no backbone (MaskNet, XGBoost)."
)


@dataclass(frozen=True)
class Row:
    """A variant beside its base and both controls.

    Two rows are equal where all but `setting` is: the same runs stand under "sasrec", "sasrec, last 10" and
    "sasrec, 604 seeds", and are one comparison.

    Parameters
    ----------
    setting : str
        What the page calls it.
    without, having : float
        Mean of the base and of the variant.
    base, shuffled, constant : tuple of float
        Difference to each: value, low, high.
    seeds : int
        Random seeds that the variant shares with all three.
    p_seeds : tuple of float or None
        Two-sided p of the paired t-test over seeds, of the three differences; None with one seed.
    """

    setting: str = field(compare=False)
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
    found: dict[Row, str] = {}
    for path in sorted(options.results.glob("*.parquet")):
        for row in rows_of(Page(path)):
            found.setdefault(row, path.stem)
    if not found:
        raise ArtifactError(
            "there are no results to sum up",
            where=str(options.results),
            expected="the parquet of a table2, table3, ablation, seeds or where",
            hint="python -m ranking.experiments table2 --dataset beauty",
        )
    gains = sum(row.verdict.startswith("gain") for row in found)
    count = f"{len(found)} comparison{'s' * (len(found) != 1)} with both controls, {gains} gain{'s' * (gains != 1)}."
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
    if page.name.startswith("segments_"):  # of parts of another page's users
        return []
    if "against" not in page.frame.columns or page.is_quick or page.is_without_seeds:
        return []
    frame = page.frame.filter((pl.col("metric") == "ndcg") & (pl.col("convention") == "masked"))
    differences = frame.filter(pl.col("against").is_not_null())
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
        rows.append(Row(setting, name, without, having, base, shuffled, constant, seeds, p_seeds, verdict))
    return rows


def table(found: Mapping[Row, str]) -> str:
    """Lay the rows out, each with its page."""
    differences = ["− without", "− shuffled", "− constant"]
    header = ["page", "", "variant", "without", "with", *differences, "seeds", "p over seeds of the three", "gain?"]
    lines = [
        [
            f"[{page}]({page}.md)",
            row.setting,
            variant(row.variant).label,
            f"{row.without:.4f}",
            f"{row.having:.4f}",
            *("{:+.4f} ({:+.4f} to {:+.4f})".format(*other) for other in (row.base, row.shuffled, row.constant)),
            str(row.seeds),
            ", ".join(tables.p_value(p) for p in row.p_seeds) if row.seeds > 1 else "–",
            row.verdict,
        ]
        for row, page in found.items()
    ]
    return tables.markdown(header, lines, left=3)
