"""Say how many tokens a seed user takes: from the ledger, or from real prompts that are counted and not sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from reland_features.artifacts import Artifact
from reland_features.config import Rationales
from reland_features.engines.base import Engine
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.seed_requests import plan_requests
from reland_features.seed_tables import SeedTables

_PROMPTS = 64


@dataclass(frozen=True)
class SeedTokens:
    """Mean tokens of a seed's prompt and answer, and where the figures come from."""

    prompt: float
    completion: float
    source: str

    @property
    def total(self) -> float:
        """Tokens of prompt and answer together."""
        return self.prompt + self.completion


def seed_tokens(
    users: pl.Series,
    marts: Artifact,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
    *,
    seed: int,
) -> SeedTokens:
    """Return what a seed takes with this engine and prompt.

    Parameters
    ----------
    users : polars.Series
        Users with behaviour; 64 of them are drawn where the ledger has no call of this engine and prompt.
    marts : Artifact
        Their behaviour and the items.
    template, engine, ledger, settings
        As for `rationales.generate`; the engine counts prompt tokens and is asked nothing.
    seed : int
        Which users are drawn.
    """
    if known := ledger.tokens_per_seed(engine.engine_id, template.prompt_id):
        return SeedTokens(*known, source="ledger: mean of the calls so far, retries included")
    rows = np.random.default_rng(seed).permutation(len(users))[:_PROMPTS]
    tables = SeedTables.read(marts, pl.DataFrame({"user_id": users[np.sort(rows)]}))
    asks = plan_requests(tables, template, engine, settings)
    prompts = [ask.prompt_tokens for ask in asks.roots]
    return SeedTokens(
        float(np.mean(prompts)) if prompts else 0.0,
        float(settings.max_tokens),
        source=f"{len(prompts)} prompts counted, answers at their limit of {settings.max_tokens} tokens",
    )
