"""Figure 7: validation NDCG@10 by epoch, from the curves that runs keep."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.options import add_names
from ranking.experiments.study import Study
from ranking.experiments.variants import variant

SUMMARY = "Figure 7: validation curves of Table 2's runs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    add_names(parser, "--backbones", "lightgcn,sasrec")
    add_names(parser, "--variants", "id,f_item,reland,reland_shuffled,reland_constant")


def run(study: Study) -> list[Path]:
    """Read the runs' curves and draw them, seed 0."""
    groups = study.measure(
        (backbone, study.spec(backbone, name))
        for backbone in study.options.backbones
        for name in study.options.variants
    )
    frame = pl.DataFrame(
        [
            {
                "setting": group.setting,
                "variant": group.variant,
                "seed": run.seed,
                "epoch": point["epoch"],
                "seconds": point["seconds"],
                "loss": point["loss"],
                **point["metrics"],
            }
            for group in groups
            for run in group.runs
            for point in run.facts["curve"]
        ]
    )
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for group in groups:
        metric = f"ndcg@10_{group.runs[0].facts['hyperparameters']['fit']['convention']}"
        points = [(p["epoch"], p["metrics"][metric]) for p in group.runs[0].facts["curve"]]
        lines.setdefault(f"{group.setting}, {metric}", {})[variant(group.variant).label] = points
    header = ["", "variant", "seeds", "best epoch", "epochs", "CPU seconds", "an epoch", "best validation NDCG@10"]
    rows = []
    for group in groups:
        facts = group.runs[0].facts
        metric = f"ndcg@10_{facts['hyperparameters']['fit']['convention']}"
        rows.append(
            [
                group.setting,
                variant(group.variant).label,
                str(len(group.runs)),
                str(facts["best_epoch"]),
                str(facts["epochs"]),
                f"{facts['training_seconds']:,.0f}",
                f"{facts['training_seconds'] / max(facts['epochs'], 1):.2f}",
                f"{facts['best'].get(metric, float('nan')):.4f} ({metric.rpartition('_')[2]})",
            ]
        )
    sections = [("Seed 0", tables.markdown(header, rows, left=2))]
    return study.publish(
        f"Validation curves on {study.dataset.name} (Figure 7)",
        groups,
        sections,
        frame,
        lambda path: figures.curves(lines, path, x="epoch", y="validation NDCG@10"),
    )
