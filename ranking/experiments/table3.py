"""Table 3: KAR and SLIM-style beside ReLand, with what each asks of the LLM."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_cut, add_names, add_trials, add_without_seeds
from ranking.experiments.seed_subset import PoolFolder
from ranking.experiments.study import Study
from ranking.experiments.variants import variant, with_controls
from ranking.splits import Split
from reland_features.artifacts import MANIFEST

SUMMARY = "Table 3: KAR, SLIM-style and ReLand, with LLM inferences and hours"
_VARIANTS = ("kar", "slim", "reland")
READING = (
    "KAR asks the LLM once for every user and every item, SLIM once for every interaction, ReLand once for every seed "
    "user. Hours are these counts times the seconds that one inference took in this project. KAR and SLIM-style read "
    "the same rationales as ReLand here, retrieved from seed users: their figures say what the way in is worth, not "
    "what a text of each user's own would give (see the variant `own`)."
)


@dataclass(frozen=True)
class LlmCost:
    """What each method asks of the LLM.

    Parameters
    ----------
    inferences : dict of str to int
        By variant.
    seconds_each : float, optional
        Measured; None where the rationales were brought from elsewhere.
    """

    inferences: dict[str, int]
    seconds_each: float | None

    def hours(self, name: str) -> float | None:
        """Return the hours that a variant's inferences take."""
        return None if self.seconds_each is None else self.inferences[name] * self.seconds_each / 3600


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "sasrec")
    add_cut(parser)
    add_without_seeds(parser)
    add_trials(parser)


def run(study: Study) -> list[Path]:
    """Run the methods on each backbone and write the table."""
    chosen = tuple(dict.fromkeys(("id", *with_controls(_VARIANTS))))
    groups = study.measure((b, study.spec(b, v)) for b in study.options.backbones for v in chosen)
    measured, differences = tables.figures(groups), tables.differences(groups)
    pairs = (((b, "reland"), (b, other)) for b in study.options.backbones for other in ("kar", "slim"))
    methods = tables.differences_between(groups, pairs, "method")
    costs, sections = [], [("Figures", tables.figures_table(measured))]
    for backbone in study.options.backbones:
        cost = llm_cost(study, backbone)
        costs += [
            {"setting": backbone, "variant": name, "inferences": cost.inferences[name], "hours": cost.hours(name)}
            for name in _VARIANTS
        ]
    sections += [
        ("LLM inferences", cost_table(costs)),
        ("ReLand minus the other methods, in NDCG@10", tables.differences_table(methods)),
        ("Differences in NDCG@10", tables.differences_table(differences)),
        ("How to read this", READING),
    ]
    return study.publish(
        f"Table 3 on {study.dataset.name}",
        groups,
        sections,
        pl.concat([measured, methods, differences, pl.DataFrame(costs)], how="diagonal"),
        lambda path: figures.forest(pl.concat([methods, differences]), path),
    )


def llm_cost(study: Study, backbone: str) -> LlmCost:
    """Count inferences from the marts and the pool, and take the seconds of one from its ledger."""
    project = study.runner.planner.project(study.spec(backbone, "reland"))
    split, pool = Split.of(project), PoolFolder.of(project)
    total = json.loads((pool.input("rationales") / MANIFEST).read_text()).get("usage", {}).get("total", {})
    timed = total.get("calls") and total.get("seconds")
    return LlmCost(
        {"kar": split.n_users + split.n_items, "slim": len(split.items), "reland": len(pool.seeds())},
        total["seconds"] / total["calls"] if timed else None,
    )


def cost_table(costs: list[dict[str, object]]) -> str:
    """Lay the costs out."""
    rows = [
        [
            str(row["setting"]),
            variant(str(row["variant"])).label,
            f"{row['inferences']:,}",
            "not measured" if row["hours"] is None else f"{row['hours']:,.2f}",
        ]
        for row in costs
    ]
    return tables.markdown(["", "method", "LLM inferences", "hours"], rows, left=2)
