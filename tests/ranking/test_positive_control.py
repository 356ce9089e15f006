"""A rationale that knows what a history does not tell is worth something to every backbone.

Without this, the absence of a gain on real data could be a fusion that lets nothing through.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ranking.backbones import build
from ranking.fitting import FitSettings, evaluate, fit
from ranking.rationales import Rationales
from ranking.sides import FeatureSides
from ranking.splits import Split

TASTES, ITEMS, USERS = 6, 120, 400
SMALL = {
    "sasrec": {"layers": 1, "heads": 1, "length": 8},
    "gru4rec": {"length": 8},
    "duorec": {"layers": 1, "heads": 1, "length": 8},
    "lightgcn": {"layers": 2},
    "ngcf": {"widths": (16,)},
    "neumf": {"widths": (32, 16)},
}


@pytest.fixture(scope="module")
def world() -> tuple[Split, np.ndarray, np.ndarray]:
    """Users who mostly take items at random in training and only those of their taste when held out."""
    generator = np.random.default_rng(7)
    taste_of_item, taste_of_user = np.arange(ITEMS) % TASTES, generator.integers(0, TASTES, USERS)
    training, held = [], []
    for user, taste in enumerate(taste_of_user):
        liked = generator.permutation(np.flatnonzero(taste_of_item == taste))[:4]
        others = generator.choice(np.flatnonzero(taste_of_item != taste), 3, replace=False)
        taken = generator.permutation([*liked[:2], *others])
        training += [(f"u{user:03}", f"i{item:03}") for item in taken]
        held += [(f"u{user:03}", f"i{item:03}") for item in liked[2:]]
    schema = {"user_id": pl.String, "item_id": pl.String}
    split = Split.from_frames(pl.DataFrame(training, schema, orient="row"), pl.DataFrame(held, schema, orient="row"))
    texts = np.eye(TASTES, 16, dtype=np.float32)
    return split, texts[taste_of_item], texts[taste_of_user]


@pytest.mark.parametrize("name", SMALL)
def test_a_rationale_that_knows_more_than_the_history_is_a_gain_over_none_and_over_anothers(name, world):
    split, item_text, of_user = world
    assert split.n_items == ITEMS
    rationales = Rationales.of_users(of_user)

    def ndcg(given: Rationales | None) -> float:
        sides = FeatureSides(item_text, given)
        backbone = build(name, split, {"dimension": 16, **SMALL[name]}, sides=sides, seed=1)
        fit(backbone, FitSettings(learning_rate=0.01, max_epochs=30, patience=5, evaluate_every=2), seed=1)
        return evaluate(backbone, "test").means()["ndcg@10_masked"]

    with_rationales, shuffled, without = (ndcg(given) for given in (rationales, rationales.shuffled(0), None))
    # Ten items at random have an NDCG@10 of 10/20 · .454 = .23 among those of the right taste, of .04 among all.
    assert with_rationales > 1.2 * without
    assert with_rationales > 1.2 * shuffled
