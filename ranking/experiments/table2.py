"""Table 2: each backbone with IDs only, with item features, with ReLand, and with ReLand's controls."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_names, add_trials, add_without_seeds
from ranking.experiments.study import Study
from ranking.experiments.variants import variants_of, with_controls

SUMMARY = "Table 2: backbones with IDs only, + f_item, + ReLand, and its controls"
READING = (
    "Masked leaves items out of the ranking that the user has already seen, unmasked keeps them; the two are never "
    "compared with each other. A gain is one whose 95 % bootstrap interval over users lies above 0 against the base "
    "and against every control: shuffled gives each user the rationale of another, constant gives all the mean of the "
    "pool's. The interval takes the trained models as given; the test over seeds is the one that sees other trainings."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "neumf,ngcf,lightgcn,gru4rec,sasrec,duorec")
    add_names(parser, "--variants", "reland")
    parser.add_argument(
        "--without-ids", action="store_true", help="leave plain IDs out: one training less for every seed"
    )
    add_without_seeds(parser)
    add_trials(parser)


def run(study: Study) -> list[Path]:
    """Run all backbones × variants and write the table."""
    options = study.options
    plain = () if options.without_ids else ("id",)
    chosen = tuple(dict.fromkeys((*plain, *with_controls(options.variants))))
    groups = study.measure((b, study.spec(b, v)) for b in options.backbones for v in variants_of(b, chosen))
    measured, differences = tables.figures(groups, study.dataset), tables.differences(groups)
    tasks = sorted({group.runs[0].facts["spec"]["task"] for group in groups})
    public = [f"{task}: {study.dataset.public[task]}" for task in tasks if task in study.dataset.public]
    sections = [
        ("Figures", tables.figures_table(measured)),
        *([("Published elsewhere", "\n".join(f"- {line}" for line in public))] if public else []),
        *(
            (f"Differences in {label}@10", tables.differences_table(differences, metric))
            for metric, label in (("ndcg", "NDCG"), ("hr", "HR"))
            if differences.height
        ),
        ("How to read this", READING),
    ]
    return study.publish(
        f"Table 2 on {study.dataset.name}",
        groups,
        sections,
        pl.concat([measured, differences], how="diagonal"),
        (lambda path: figures.forest(differences, path)) if differences.height else None,
    )
