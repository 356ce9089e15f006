"""A split small enough to count on one's fingers, and random ones."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ranking.splits import Split

SCHEMA = {"user_id": pl.String, "item_id": pl.String}


def make_split(histories: dict[str, list[int]], held_out: int = 1) -> Split:
    """Return a split in which the last `held_out` items of each part are validated and tested on."""
    cut = 2 * held_out
    train = [(user, f"i{item:03}") for user, items in histories.items() for item in items[: len(items) - cut]]
    held = [(user, f"i{item:03}") for user, items in histories.items() for item in items[len(items) - cut :]]
    return Split.from_frames(pl.DataFrame(train, SCHEMA, orient="row"), pl.DataFrame(held, SCHEMA, orient="row"))


@pytest.fixture
def toy() -> Split:
    """Three users over items 0..5: u0 trains on 0 1 2, u1 on 1 3, u2 on 4."""
    return make_split({"u0": [0, 1, 2, 3, 4], "u1": [1, 3, 5, 0], "u2": [4, 5, 2]})


@pytest.fixture
def random_split() -> Split:
    """30 users over 40 items with histories of 3 to 30, many longer than the windows of the tests."""
    generator = np.random.default_rng(5)
    return make_split(
        {
            f"u{n:02}": [*generator.permutation(40)[: generator.integers(3, 31)].tolist(), 40 + n % 2, 42]
            for n in range(30)
        }
    )
