"""Figure 5: ReLand without its prompt, without adaptive sampling, without item features."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_cut, add_names, add_trials, add_without_seeds, shown_word
from ranking.experiments.study import Study
from ranking.experiments.variants import with_controls
from reland_features.errors import ConfigError

SUMMARY = "Figure 5: w/o recommendation-oriented prompting, w/o adaptive sampling, w/o item features"
_SOURCES = {"direct": "w/o recommendation-oriented prompting", "random": "w/o adaptive sampling"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "neumf,sasrec")
    add_cut(parser)
    add_without_seeds(parser)
    add_trials(parser)


def run(study: Study) -> list[Path]:
    """Run the whole and its parts; a part whose project is missing is named in the table, with its command.

    Raises
    ------
    ConfigError
        Another source is given: its texts and the parts' are of different LLMs, so a difference is not the part's.
    """
    if study.options.source:
        raise ConfigError(
            "the parts are made with the own LLM, so only the own LLM's rationales can be compared with them",
            where="--source",
            got=study.options.source,
            expected="no --source",
            hint="leave it out; table2 --source measures another system's texts",
        )
    wanted, missing = [], []
    for backbone in study.options.backbones:
        whole = tuple(dict.fromkeys(("id", *with_controls(("reland", "reland_without_items")))))
        wanted += [(backbone, study.spec(backbone, name)) for name in whole]
        for source, label in _SOURCES.items():
            specs = [study.spec(backbone, name, source=source) for name in with_controls(("reland",))]
            try:
                study.runner.project(specs[0])
            except ConfigError as error:
                line = f"{backbone} {label}: not run, for want of a project. Make it: `{error.hint}`"
                print(line, file=sys.stderr)
                missing.append(_shown(line, study))
                continue
            wanted += [(f"{backbone} {label}", spec) for spec in specs]
    groups = study.measure(wanted)
    measured, differences = tables.figures(groups), tables.differences(groups)
    sections = [
        ("Figures", tables.figures_table(measured)),
        ("Differences in NDCG@10", tables.differences_table(differences)),
        *([("Not run", "\n".join(f"- {line}" for line in missing))] if missing else []),
    ]
    return study.publish(
        f"Ablation on {study.dataset.name} (Figure 5)",
        groups,
        sections,
        pl.concat([measured, differences], how="diagonal"),
        lambda path: figures.forest(differences, path),
    )


def _shown(line: str, study: Study) -> str:
    """Return a line as it may be published: a page names no folder of a machine."""
    for given in (str(study.runner.projects), study.dataset.given):
        if Path(given).is_absolute():
            line = line.replace(given, shown_word(given))
    return line
