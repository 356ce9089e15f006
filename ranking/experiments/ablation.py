"""Figure 5: ReLand without its prompt, without adaptive sampling, without item features."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_cut, add_names, add_trials, add_without_seeds, shown_word
from ranking.experiments.study import Study
from ranking.experiments.variants import with_controls
from reland_features.errors import ConfigError

SUMMARY = "Figure 5: w/o recommendation-oriented prompting, w/o adaptive sampling, w/o item features"
_SOURCES = {"direct": "w/o recommendation-oriented prompting", "random": "w/o adaptive sampling"}
_PARTS = "Figure 5 says that every part helps: that would be differences above 0, paired by user."


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
                study.runner.planner.project(specs[0])
            except ConfigError as error:
                line = f"{_setting(backbone, label)}: not run, for want of a project. Make it: `{error.hint}`"
                print(line, file=sys.stderr)
                missing.append(_shown(line, study))
                continue
            wanted += [(_setting(backbone, label), spec) for spec in specs]
    groups = study.measure(wanted)
    measured, differences = tables.figures(groups), tables.differences(groups)
    parts = tables.differences_between(groups, _pairs(study.options.backbones), "part")
    sections = [
        ("Figures", tables.figures_table(measured)),
        ("The whole minus the whole without a part, in NDCG@10", f"{_PARTS}\n\n{tables.differences_table(parts)}"),
        ("Differences in NDCG@10", tables.differences_table(differences)),
        *([("Not run", "\n".join(f"- {line}" for line in missing))] if missing else []),
    ]
    return study.publish(
        f"Ablation on {study.dataset.name} (Figure 5)",
        groups,
        sections,
        pl.concat([measured, parts, differences], how="diagonal"),
        lambda path: figures.forest(pl.concat([parts, differences]), path),
    )


def _pairs(backbones: Iterable[str]) -> Iterator[tuple[tables.Key, tables.Key]]:
    """Return the whole and each of the parts' (setting, variant)."""
    for backbone in backbones:
        whole = (backbone, "reland")
        yield from ((whole, (_setting(backbone, label), "reland")) for label in _SOURCES.values())
        yield whole, (backbone, "reland_without_items")


def _setting(backbone: str, label: str) -> str:
    """Return the setting of a part that is a source of its own."""
    return f"{backbone} {label}"


def _shown(line: str, study: Study) -> str:
    """Return a line as it may be published: a page names no folder of a machine."""
    for given in (str(study.runner.projects), study.dataset.given):
        if Path(given).is_absolute():
            line = line.replace(given, shown_word(given))
    return line
