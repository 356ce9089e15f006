"""New users: a ranker that never learned from them meets their first interactions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.inputs import split_of
from ranking.experiments.options import add_names
from ranking.experiments.runs import CONVENTIONS, Run
from ranking.experiments.study import Study
from ranking.experiments.table2 import READING
from ranking.experiments.variants import variants_of, with_controls
from reland_features.errors import ArtifactError, ConfigError

SUMMARY = "New users: measured after their first interactions, with a ranker that learned from others"
NEWCOMERS = (
    "A third of the users, drawn uniformly, is kept out of the ranker's training and then met as new users are: after "
    "their first n interactions the next one is to be found, and a user's figures are means over the n of a row. The "
    "weights of a variant are the same in all rows; *learned from* are the other users, on their own test part, and "
    "are compared with nothing. Rationales and mean texts are those of the time, in training and when newcomers are "
    "met: what the interactions so far say, not the whole history. The match is folded in from the interactions of "
    "the users who are learned from, among the seeds that they are (`ranking.point_in_time`), for a published match is "
    "of the whole history; it is another matcher than the published one, and little is known of a user after one "
    "interaction. The behaviour encoder has seen newcomers' later interactions as everybody's, which moves the seeds "
    "they are matched to, a little."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "sasrec")
    add_names(parser, "--variants", "reland_dated,mean_text_dated", "those that read what the interactions so far say")
    add_names(parser, "--known", "1-2,3-5,6-10", "interactions that are known, a row each")


def run(study: Study) -> list[Path]:
    """Train on the others, then measure newcomers at every moment, and write the table."""
    options = study.options
    spans = _spans(options.known)
    wanted = [(b, name) for b in options.backbones for name in variants_of(b, with_controls(options.variants))]
    last = study.spec(*wanted[0], known=max(counts[-1] for counts in spans.values()))
    split_of(
        study.runner.planner.project(last).root, last
    )  # before hours of training: is there anybody to meet so late?
    learned = study.measure((f"{b}, learned from", study.spec(b, name, known=0)) for b, name in wanted)
    moments = study.measure(
        (f"{b}, first {text}", study.spec(b, name, known=n))
        for text, counts in spans.items()
        for b, name in wanted
        for n in counts
    )
    _check_weights([*learned, *moments])
    met = [_mean_group(same) for _, same in groupby(moments, key=lambda group: (group.setting, group.variant))]
    measured, differences = tables.figures([*learned, *met]), tables.differences(met)
    return study.publish(
        f"New users on {study.dataset.name}",
        [*learned, *met],
        [
            ("Figures", tables.figures_table(measured)),
            *([("Differences in NDCG@10", tables.differences_table(differences))] if differences.height else []),
            ("Who is measured", _who(moments)),
            ("How to read this", f"{READING} {NEWCOMERS}"),
        ],
        pl.concat([measured, differences], how="diagonal"),
        (lambda path: figures.forest(differences, path)) if differences.height else None,
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

    facts = runs[0].facts
    spec = {**facts["spec"], "known": [run.facts["spec"].get("known") for run in runs]}
    return Run(users, level, means("hr"), means("ndcg"), {**facts, "spec": spec})


def _spans(texts: Sequence[str]) -> dict[str, range]:
    spans = {text: span(text) for text in texts}
    moments = [n for moments in spans.values() for n in moments]
    if len(set(moments)) < len(moments):
        raise ConfigError("a moment stands in two spans", where="--known", got=",".join(texts), expected="1-2,3-5,10")
    return spans


def _mean_group(same: Iterable[tables.Group]) -> tables.Group:
    groups = list(same)
    runs = zip(*(group.runs for group in groups), strict=True)
    return tables.Group(groups[0].setting, groups[0].variant, tuple(mean_run(each) for each in runs))


def _check_weights(groups: Sequence[tables.Group]) -> None:
    """Raise `ArtifactError` where newcomers were met with other weights than those of the run that is kept."""
    kept: dict[tuple[str, ...], str] = {}
    for group in groups:
        for run in group.runs:
            spec = run.facts["spec"]
            key = tuple(str(spec[name]) for name in ("backbone", "variant", "source", "seed", "quick", "overrides"))
            if kept.setdefault(key, run.facts["weights"]) != run.facts["weights"]:
                raise ArtifactError(
                    "runs of one variant are of two trainings, of which one has lost its weights",
                    where=f"{spec['backbone']} {spec['variant']}, seed {spec['seed']}",
                    got=f"weights {run.facts['weights']} after {spec['known']} interactions",
                    expected=kept[key],
                    hint="delete the runs of newcomers below raw/, and keep weights/ beside the projects",
                )


def _who(moments: Sequence[tables.Group]) -> str:
    """Return how many newcomers are met after how many interactions: later rows are of those who did more."""
    found = {group.runs[0].facts["spec"]["known"]: len(group.runs[0].users) for group in moments}
    counts = "; ".join(f"{users:,} after {known}" for known, users in sorted(found.items()))
    return f"Newcomers with one interaction more than n, so that there is a next one to find: {counts}."
