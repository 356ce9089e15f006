"""A toy world of seeds, histories and items, and a ledger."""

from __future__ import annotations

import polars as pl
import pytest

from reland_features.config import Rationales
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rationales import generate
from reland_features.seed_tables import SeedTables

TEMPLATE = PromptTemplate.load("movies")
GENRES = ("Drama", "Comedy", "War", "Western")


class Tables:
    """A toy world: 40 films, and users who each saw some of them."""

    def __init__(self, users: int = 20, history: int = 6, films: int = 40) -> None:
        ids = [f"f{n}" for n in range(films)]
        self.items = pl.DataFrame(
            {
                "item_id": ids,
                "title": [f"Film number {n} ({1950 + n})" for n in range(films)],
                "categories": [[GENRES[n % 4], GENRES[n % 3]] for n in range(films)],
                "interaction_count": [films - n for n in range(films)],
            }
        )
        self.histories = pl.DataFrame(
            {
                "user_id": [f"u{n:02}" for n in range(users)],
                "item_ids": [[ids[(7 * n + k) % films] for k in range(history + n % 3)] for n in range(users)],
            }
        )
        self.seeds = self.histories.select("user_id", cluster_id=pl.lit(0, pl.Int32), drawn_by=pl.lit("important"))

    def of(self, *, engine, ledger, template=TEMPLATE, on_progress=None, retry_failed=False, **settings):
        options = Rationales(engine="dummy", **settings)
        return generate(self.seed_tables, template, engine, ledger, options, on_progress, retry_failed=retry_failed)

    @property
    def seed_tables(self) -> SeedTables:
        return SeedTables(self.seeds, self.histories, self.items, self.histories.select("user_id", "item_ids"))


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def make_tables() -> type[Tables]:
    return Tables
