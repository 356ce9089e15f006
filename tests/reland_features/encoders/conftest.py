from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from reland_features.interactions import Interactions

START = datetime(2024, 1, 1)


def interactions_of(histories: dict[str, list[str]]) -> Interactions:
    """Interactions one hour apart, in the order given."""
    rows = [
        (user, item, START + timedelta(hours=order), 1.0, order)
        for user, items in histories.items()
        for order, item in enumerate(items, 1)
    ]
    schema = {
        "user_id": pl.String,
        "item_id": pl.String,
        "interacted_at": pl.Datetime("us"),
        "weight": pl.Float64,
        "interaction_order": pl.Int64,
    }
    return Interactions.from_frame(pl.DataFrame(rows, schema=schema, orient="row"))


@pytest.fixture(scope="session")
def two_tastes() -> Interactions:
    """120 users: even ones like items 0-29, odd ones 30-59; each walks up its items from a random one."""
    generator = np.random.default_rng(0)
    histories = {}
    for user in range(120):
        start, low = int(generator.integers(30)), 30 * (user % 2)
        histories[f"u{user:03d}"] = [
            f"i{low + (start + step) % 30:02d}" for step in range(int(generator.integers(8, 15)))
        ]
    return interactions_of(histories)


@pytest.fixture(scope="session")
def end() -> datetime:
    return START + timedelta(days=365)


@pytest.fixture(scope="session")
def interactions_from():
    return interactions_of
