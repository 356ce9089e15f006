"""What a case lists: the ranking that is measured, for one user."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from ranking.experiments.case import Recommended, recommend, render
from ranking.full_ranking import full_ranking
from ranking.splits import Split

ITEMS = [f"i{n}" for n in range(6)]


def split_of(user: list[str], held_out: list[str]) -> Split:
    """One user with these events, and one that gives the catalogue all items."""
    rows = [("u", item) for item in user] + [("v", item) for item in ITEMS]
    held = [("u", item) for item in held_out] + [("v", "i0"), ("v", "i1")]
    frames = (pl.DataFrame(part, schema=["user_id", "item_id"], orient="row") for part in (rows, held))
    return Split.from_frames(*frames)


def backbone(split: Split, scores: list[float]) -> SimpleNamespace:
    """A backbone with the same scores for every user, by `ITEMS`."""
    table = torch.tensor([float(scores[ITEMS.index(item)]) for item in split.item_ids])
    return SimpleNamespace(split=split, eval=lambda: None, scorer=lambda part: lambda rows: table.repeat(len(rows), 1))


@pytest.mark.parametrize(
    ("user", "held_out", "scores", "items", "position"),
    [
        (["i0", "i1"], ["i2", "i3"], [6, 5, 4, 3, 2, 1], ["i3", "i4", "i5"], 1),
        # Bought again: it stays in the masked ranking.
        (["i0", "i1"], ["i2", "i0"], [6, 5, 4, 3, 2, 1], ["i0", "i3", "i4"], 1),
        (["i0", "i1", "i4"], ["i2", "i5"], [6, 5, 4, 3, 2, 1], ["i3", "i5"], 2),
        (["i0", "i1"], ["i2", "i3"], [6, 5, 4, 1, 1, 1], ["i3", "i4", "i5"], 2),
        (["i0", "i1"], ["i2", "i3"], [6, 5, 1, 1, 7, 1], ["i4", "i3", "i5"], 2.5),
    ],
)
def test_a_case_ranks_as_the_measurement_does(user, held_out, scores, items, position):
    split = split_of(user, held_out)
    model = backbone(split, scores)
    found = recommend(model, "u", "id", k=3)
    assert found == Recommended("id", tuple(items), position)
    measured = full_ranking(model.scorer("test"), split, "test")
    assert measured.ndcg["masked"][0] == pytest.approx(1 / np.log2(position + 1))


def test_whatever_is_held_out_stays_in_the_ranking():
    split = split_of(["i0", "i1"], ["i2", "i0"])
    split = replace(split, validation=np.zeros_like(split.validation))  # both are of the test part
    found = recommend(backbone(split, [6, 5, 4, 3, 2, 1]), "u", "id", k=3)
    assert found == Recommended("id", ("i0", "i2", "i3"), 2)


def test_half_a_position_is_shown():
    explanation = SimpleNamespace(text=lambda: "")
    rows = [Recommended("id", ("i0",), 2.5), Recommended("f_item", (), 1234.0)]
    assert "| position of the held-out item | 2.5 | 1,234 |" in render("c", explanation, "i0", rows, {})
