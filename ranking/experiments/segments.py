"""Table 5's segments: who gains, by activity level from L1 (least active) to L4."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_names, add_trials, add_without_seeds
from ranking.experiments.runs import LEVELS
from ranking.experiments.study import Study
from ranking.experiments.table2 import READING
from ranking.experiments.tables import Group
from ranking.experiments.variants import variants_of, with_controls

SUMMARY = "Table 5's segments: differences by activity level L1 to L4, from Table 2's runs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "neumf,ngcf,lightgcn,gru4rec,sasrec,duorec")
    add_names(parser, "--variants", "reland")
    add_without_seeds(parser)
    add_trials(parser)


def run(study: Study) -> list[Path]:
    """Cut the runs of Table 2 by level and write the table."""
    options = study.options
    chosen = with_controls(options.variants)
    groups = study.measure((b, study.spec(b, v)) for b in options.backbones for v in variants_of(b, chosen))
    cut = [
        Group(f"{group.setting}, {level}", group.variant, tuple(run.of_level(level) for run in group.runs))
        for level in LEVELS
        for group in groups
        if (group.runs[0].level == 1 + LEVELS.index(level)).any()
    ]
    measured, differences = tables.figures(cut), tables.differences(cut)
    sections = [
        ("Figures", tables.figures_table(measured)),
        *([("Differences in NDCG@10", tables.differences_table(differences))] if differences.height else []),
        ("How to read this", READING),
    ]
    return study.publish(
        f"Activity levels on {study.dataset.name} (Table 5)",
        groups,
        sections,
        pl.concat([measured, differences], how="diagonal"),
        (lambda path: figures.forest(differences, path)) if differences.height else None,
    )
