"""Is it the match or the text: rationales beside the same matches with the texts dealt out among the seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_cut, add_names, add_without_seeds
from ranking.experiments.study import Study
from ranking.experiments.table2 import READING
from ranking.experiments.variants import variant, variants_of, with_controls
from reland_features.errors import ConfigError

SUMMARY = "Is it the match or the text: the same matches, with each seed's text dealt out to another seed"
PERMUTED = (
    "*Texts permuted* deals the rationales out among the seeds, by the training's random seed: users who share a "
    "seed's rationale still share one, so whatever the match says of a user is there, in training and in test; what "
    "the text says is another seed's. What rationales have beyond it is the text's; what it has beyond the variant "
    "without rationales is the match's."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "sasrec")
    add_names(parser, "--variants", "reland")
    add_cut(parser)
    add_without_seeds(parser)


def run(study: Study) -> list[Path]:
    """Run the variants, their controls and the same matches with permuted texts, and write the table."""
    options = study.options
    permuted = {name: variant(name).permuted for name in options.variants}
    if bad := [name for name, other in permuted.items() if other is None]:
        raise ConfigError(
            "these variants inherit no seed's text",
            where="--variants",
            got=", ".join(bad),
            expected="reland, or another that reads the rationale of the matched seed",
        )
    names = (*with_controls(options.variants), *filter(None, permuted.values()))
    groups = study.measure((b, study.spec(b, name)) for b in options.backbones for name in variants_of(b, names))
    measured, differences = tables.figures(groups), tables.differences(groups)
    pairs = [((b, name), (b, str(other))) for b in options.backbones for name, other in permuted.items()]
    texts = tables.differences_between(groups, pairs, "text")
    return study.publish(
        f"The match or the text on {study.dataset.name}",
        groups,
        [
            ("Rationales minus the same matches with permuted texts, in NDCG@10", tables.differences_table(texts)),
            ("Figures", tables.figures_table(measured)),
            ("Differences in NDCG@10", tables.differences_table(differences)),
            ("How to read this", f"{READING} {PERMUTED}"),
        ],
        pl.concat([measured, texts, differences], how="diagonal"),
        lambda path: figures.forest(pl.concat([texts, differences]), path),
    )
