"""Figure 8: what two variants recommend to one user, and the rationale the user inherits.

Prints only: titles and histories belong to the data set and are not to be published with results.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ranking.backbones.base import Backbone
from ranking.experiments import tables
from ranking.experiments.inputs import load_split
from ranking.experiments.options import add_names
from ranking.experiments.seed_subset import PoolFolder
from ranking.experiments.study import Study
from ranking.experiments.variants import variant
from ranking.splits import Split
from reland_features.errors import TableError
from reland_features.explain import Explanation, read_explanations

SUMMARY = "Figure 8: one user's history, target, two variants' top 5, and the inherited rationale (printed only)"


@dataclass(frozen=True)
class Recommended:
    """A variant's first items for a user, and where the held-out item comes.

    Parameters
    ----------
    item_ids : tuple of str
        The first items, best first; fewer than asked for where the user has seen almost everything.
    target_position : float
        From 1. Items with an equal score come half before it and half after, as in `ranking.full_ranking`.
    """

    variant: str
    item_ids: tuple[str, ...]
    target_position: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    parser.add_argument("--user", required=True, metavar="USER_ID")
    parser.add_argument("--backbone", default="sasrec")
    add_names(parser, "--variants", "f_item,reland")
    parser.add_argument("--last", type=int, default=10, metavar="N", help="items of the history that are shown")


def run(study: Study) -> list[Path]:
    """Find or train the models and print the case.

    Raises
    ------
    TableError
        The user is not in the split, or has nothing held out: before anything is trained.
    """
    options = study.options
    specs = [study.spec(options.backbone, name) for name in options.variants]
    project = study.runner.planner.project(study.spec(options.backbone, "reland"))
    split = load_split(project.root)
    target = split.item_ids[held_out(split, options.user)[1]]
    explanation = read_explanations(
        project.marts,
        PoolFolder.of(project).path,
        project.root / "features" / "user_rationale" / f"{project.features_run}.parquet",
        [options.user],
        options.last,
    )[0]
    items = pl.read_parquet(project.mart("items"), columns=["item_id", "title"])
    study.runner.run_all(specs)
    recommended = [recommend(study.runner.trained(spec), options.user, spec.variant) for spec in specs]
    print(render(study.command, explanation, target, recommended, dict(items.iter_rows())))
    return []


def recommend(backbone: Backbone, user_id: str, name: str, k: int = 5) -> Recommended:
    """Rank the items that a user has not seen, for the test part, and what is held out though it was seen before.

    Raises
    ------
    TableError
        The user is not in the split, or has nothing held out.
    """
    split = backbone.split
    row, target = held_out(split, user_id)
    backbone.eval()
    with torch.inference_mode():
        scores = backbone.scorer("test")(torch.tensor([row]))[0].cpu().numpy().copy()
    (owners, seen), (held_by, held) = split.seen("test"), split.targets("test")
    scores[np.setdiff1d(seen[owners == row], held[held_by == row])] = -np.inf
    first = np.argsort(-scores, kind="stable")[:k]
    first = first[scores[first] > -np.inf]  # with fewer left than k the rest are items seen before
    above, tied = (scores > scores[target]).sum(), (scores == scores[target]).sum() - 1
    return Recommended(name, tuple(split.item_ids[int(item)] for item in first), float(1 + above + tied / 2))


def render(
    command: str, explanation: Explanation, target: str, recommended: list[Recommended], titles: dict[str, str]
) -> str:
    """Return the case as markdown."""

    def title(item: str) -> str:
        return f"{titles.get(item, item)}{' ← held out' if item == target else ''}"

    rows = [
        [str(place + 1), *(title(r.item_ids[place]) if place < len(r.item_ids) else "" for r in recommended)]
        for place in range(max(len(r.item_ids) for r in recommended))
    ]
    rows.append(
        ["position of the held-out item", *(f"{r.target_position:,.1f}".removesuffix(".0") for r in recommended)]
    )
    header = ["", *(variant(r.variant).label for r in recommended)]
    return "\n\n".join(
        [
            f"`{command}`",
            f"Held out: {titles.get(target, target)}",
            tables.markdown(header, rows, left=len(header)),
            f"```\n{explanation.text()}\n```",
        ]
    )


def held_out(split: Split, user_id: str) -> tuple[int, int]:
    """Return a user's row and the row of the first item it is tested on; raise `TableError` without either."""
    found = split.user_ids.index_of(user_id)
    if found is None:
        known = ", ".join(split.user_ids.head(3))
        raise TableError("no such user", where="--user", got=user_id, expected=f"a user_id such as {known}")
    owners, items = split.targets("test")
    if not (own := items[owners == found]).size:
        raise TableError("nothing of this user is held out", where="--user", got=user_id)
    return int(found), int(own[0])
