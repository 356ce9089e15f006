"""Say what `generate` would ask and cost, without asking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reland_features.project import Project
from reland_features.stages import Outcome, llm_engine


def plan_generation(project: Project, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Count the calls and tokens of the next `generate`, what they may cost and how long they take.

    Parameters
    ----------
    outcomes : mapping
        Finished `prepare` and `sample` stages.
    """
    from reland_features.ledger import Ledger
    from reland_features.prompts import PromptTemplate
    from reland_features.rationales import dry_run

    settings = project.config.rationales
    marts, seeds = outcomes["prepare"].artifact, outcomes["sample"].artifact
    engine = llm_engine(project)
    try:
        with Ledger(project.ledger) as ledger:
            plan = dry_run(
                pl.read_parquet(seeds.table("seed_users")),
                pl.read_parquet(marts.table("user_histories")),
                pl.read_parquet(marts.table("items")),
                PromptTemplate.of(settings, base=project.root),
                engine,
                ledger,
                settings,
            )
    finally:
        engine.close()
    return plan.as_dict()
