"""Where does it help: users cut to their last few interactions."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_names, add_trials, add_without_seeds
from ranking.experiments.study import CUT, Study
from ranking.experiments.table2 import READING
from ranking.experiments.variants import variants_of, with_controls
from reland_features.errors import ConfigError

SUMMARY = "Where it helps: users cut to their last 5, 10, 20 interactions, by variant"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "lightgcn,sasrec")
    add_names(parser, "--variants", "reland,reland_cross,reland_without_items,mean_text")
    add_names(parser, "--keep-last", "5,10,20,all")
    add_without_seeds(parser)
    add_trials(parser)


def run(study: Study) -> list[Path]:
    """Run backbones × cuts × variants and write the table."""
    options = study.options
    if bad := [text for text in options.keep_last if text != "all" and (not text.isdigit() or int(text) < 1)]:
        raise ConfigError("--keep-last takes counts and 'all'", got=", ".join(bad), expected="5,10,20,all")
    groups = study.measure(
        (
            backbone if cut == "all" else f"{backbone}, last {cut}",
            study.spec(backbone, name, keep_last=None if cut == "all" else int(cut)),
        )
        for backbone in options.backbones
        for cut in options.keep_last
        for name in variants_of(backbone, with_controls(options.variants))
    )
    measured, differences = tables.figures(groups), tables.differences(groups)
    sections = [
        ("Figures", tables.figures_table(measured)),
        *([("Differences in NDCG@10", tables.differences_table(differences))] if differences.height else []),
        ("How to read this", f"{READING} {CUT}"),
    ]
    return study.publish(
        f"Where rationales help on {study.dataset.name}",
        groups,
        sections,
        pl.concat([measured, differences], how="diagonal"),
        (lambda path: figures.forest(differences, path)) if differences.height else None,
    )
