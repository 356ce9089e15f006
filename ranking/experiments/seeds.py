"""Figure 6: the number of seed users against the metric and the tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_cut, add_names, add_without_seeds
from ranking.experiments.seed_subset import PoolFolder
from ranking.experiments.study import Study
from ranking.experiments.tables import Group
from ranking.experiments.variants import variant
from reland_features.errors import ConfigError

SUMMARY = "Figure 6: seed users and tokens against NDCG@10, without another LLM call"
_VARIANTS = ("reland", "reland_shuffled", "reland_constant")
_HOW = (
    "Seeds are dropped from the end of the order in which they were drawn, which leaves a sample for a smaller "
    "budget, and every user is matched again by exact cosine (Eq. 3). Tokens are those of the kept seeds' calls."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "neumf,sasrec")
    add_cut(parser)
    add_names(parser, "--fractions", "0.05,0.1,0.25,0.5,1")
    add_without_seeds(parser)


def run(study: Study) -> list[Path]:
    """Run backbones × fractions of the pool and write the table."""
    fractions = _fractions(study.options.fractions)
    budgets = {}
    for backbone in study.options.backbones:
        pool = PoolFolder.of(study.runner.planner.project(study.spec(backbone, "reland")))
        for fraction in fractions:
            kept = pool.seeds(fraction)
            budgets[f"{backbone}, {len(kept):,} seeds"] = (backbone, fraction, len(kept), pool.tokens(kept))
    groups = study.measure(
        (setting, study.spec(backbone, name, **({"seed_users": fraction} if name != "f_item" else {})))
        for setting, (backbone, fraction, _, _) in budgets.items()
        for name in ("f_item", *_VARIANTS)
    )
    budget_frame = pl.DataFrame(
        [
            {"setting": setting, "seed_users": count, "tokens": tokens}
            for setting, (_, _, count, tokens) in budgets.items()
        ]
    )
    measured = tables.figures(groups).join(budget_frame, on="setting", how="left", maintain_order="left")
    differences = tables.differences(groups)
    sections = [
        ("Seeds and tokens", tables.markdown(
            ["", "seed users", "prompt + completion tokens"],
            [[row[0], f"{row[1]:,}", f"{row[2]:,}"] for row in budget_frame.iter_rows()],
        )),
        ("Figures", tables.figures_table(measured)),
        ("Differences in NDCG@10", tables.differences_table(differences)),
        ("How to read this", _HOW),
    ]  # fmt: skip
    return study.publish(
        f"Seed users on {study.dataset.name} (Figure 6)",
        groups,
        sections,
        pl.concat([measured, differences], how="diagonal"),
        lambda path: figures.curves(
            _lines(groups, budgets), path, x="seed users (prompt + completion tokens in the table)", y="NDCG@10, masked"
        ),
    )


def _lines(
    groups: list[Group], budgets: dict[str, tuple[str, float, int, int]]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for group in groups:
        backbone, _, count, _ = budgets[group.setting]
        panel = lines.setdefault(backbone, {})
        point = (float(count), float(group.values("ndcg", "masked").mean()))
        panel.setdefault(variant(group.variant).label, []).append(point)
    return lines


def _fractions(texts: tuple[str, ...]) -> list[float]:
    try:
        found = sorted({float(text) for text in texts})
    except ValueError as error:
        raise ConfigError("--fractions takes numbers", got=",".join(texts), expected="0.1,0.5,1") from error
    if not found or found[0] <= 0 or found[-1] > 1:
        raise ConfigError("a fraction of the pool is above 0 and at most 1", got=",".join(texts))
    return found
