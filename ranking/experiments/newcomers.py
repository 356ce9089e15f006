"""New users: a ranker that never learned from them meets their first interactions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_names
from ranking.experiments.runs import CONVENTIONS, Run
from ranking.experiments.study import Study
from ranking.experiments.table2 import READING
from ranking.experiments.variants import variants_of, with_controls
from reland_features.errors import ConfigError

SUMMARY = "New users: measured after their first interactions, with a ranker that learned from others"
NEWCOMERS = (
    "A third of the users, drawn uniformly, is kept out of the ranker's training and then met as new users are: after "
    "their first n interactions the next one is to be found, and a user's figures are means over the n of a row. The "
    "weights of a variant are the same in all rows; *learned from* are the other users, on their own test part. A "
    "newcomer's rationale is that of the seed among the other users who is most similar to the first n interactions, "
    "folded in from the others' interactions (`ranking.newcomers`); shuffled deals these out among newcomers. The "
    "behaviour encoder has seen newcomers' later interactions as everybody's, so that seeds lie a little better than "
    "on the day: this favours ReLand."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "sasrec")
    add_names(parser, "--variants", "reland,mean_text")
    add_names(parser, "--known", "1-2,3-5,6-10")


def run(study: Study) -> list[Path]:
    """Train on the others, then measure newcomers at every moment, and write the table."""
    options = study.options
    spans = {text: span(text) for text in options.known}
    wanted = [(b, name) for b in options.backbones for name in variants_of(b, with_controls(options.variants))]
    groups = study.measure((f"{b}, learned from", study.spec(b, name, known=0)) for b, name in wanted)
    for text, moments in spans.items():
        of_span = study.measure(
            (f"{b}, first {text}", study.spec(b, name, known=n)) for b, name in wanted for n in moments
        )
        for first in range(0, len(of_span), len(moments)):
            same = of_span[first : first + len(moments)]
            runs = zip(*(group.runs for group in same), strict=True)
            groups.append(tables.Group(same[0].setting, same[0].variant, tuple(mean_run(each) for each in runs)))
    measured, differences = tables.figures(groups), tables.differences(groups)
    return study.publish(
        f"New users on {study.dataset.name}",
        groups,
        [
            ("Figures", tables.figures_table(measured)),
            ("Differences in NDCG@10", tables.differences_table(differences)),
            ("How to read this", f"{READING} {NEWCOMERS}"),
        ],
        pl.concat([measured, differences], how="diagonal"),
        lambda path: figures.forest(differences, path),
    )


def span(text: str) -> range:
    """Read a count, or a span of them such as ``3-5``.

    Raises
    ------
    ConfigError
        It is neither, or begins below 1.
    """
    counts = [int(count) for count in text.split("-")] if re.fullmatch(r"\d+(-\d+)?", text) else [0]
    if not 1 <= counts[0] <= counts[-1]:
        raise ConfigError("--known takes counts of interactions and spans of them", got=text, expected="1-2,3-5,10")
    return range(counts[0], counts[-1] + 1)


def mean_run(runs: Sequence[Run]) -> Run:
    """Return each user's mean over runs that measured it at several moments; who was met at some only has fewer."""
    users = np.unique(np.concatenate([run.users for run in runs]))
    rows = np.concatenate([np.searchsorted(users, run.users) for run in runs])
    level = np.zeros(len(users), dtype=np.uint8)
    level[rows] = np.concatenate([run.level for run in runs])

    def means(metric: str) -> dict[str, np.ndarray]:
        values = {name: np.concatenate([run.values(metric, name) for run in runs]) for name in CONVENTIONS}
        return {name: np.bincount(rows, weights=each) / np.bincount(rows) for name, each in values.items()}

    return Run(users, level, means("hr"), means("ndcg"), runs[0].facts)
