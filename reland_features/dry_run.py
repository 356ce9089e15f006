"""Say what `generate` would ask and cost, without a paid call, and keep it beside what the run then takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from reland_features.artifacts import write_atomically
from reland_features.project import Project
from reland_features.stages import Outcome, llm_engine
from reland_features.stages.base import now
from reland_features.stages.reasoning import generation


def plan_generation(project: Project, outcomes: Mapping[str, Outcome], *, retry_failed: bool = False) -> dict[str, Any]:
    """Estimate calls, tokens, cost and hours of the next `generate`; see `estimates.estimate`.

    The answer is kept in the project (`Project.dry_run`): the manifest and the report of the run show it.

    Parameters
    ----------
    outcomes : mapping
        Finished `prepare` and `sample` stages.
    retry_failed : bool
        Estimate `generate --retry-failed`.
    """
    from reland_features.estimates import estimate
    from reland_features.ledger import Ledger
    from reland_features.prompts import PromptTemplate
    from reland_features.seed_tables import SeedTables

    settings = project.config.rationales
    marts, seeds = outcomes["prepare"], outcomes["sample"]
    template = PromptTemplate.of(settings, base=project.root)
    engine = llm_engine(project)
    try:
        with Ledger(project.ledger) as ledger:
            estimated = estimate(
                SeedTables.read(marts.artifact, pl.read_parquet(seeds.artifact.table("seed_users"))),
                template,
                engine,
                ledger,
                settings,
                retry_failed=retry_failed,
            )
        config, inputs = generation(project, template.prompt_id, engine, marts, seeds, retry_failed=retry_failed)
    finally:
        engine.close()
    said = {
        "rationales": project.artifacts.id_of("rationales", seeds.as_of, config, inputs),
        "engine_id": engine.engine_id,
        "prompt_id": template.prompt_id,
        "made_at": now().isoformat(timespec="seconds"),
        **estimated.as_dict(),
    }
    write_atomically(project.dry_run, json.dumps(said, indent=2) + "\n")
    return said


def describe(said: Mapping[str, Any]) -> str:
    """Return an estimate as lines for a terminal."""
    expected, at_most = said["expected"], said["at_most"]
    rows = [
        ("requests", f"{said['requests']:,}", f"{said['cached']:,} of them are answered in the ledger"),
        *(
            (name.replace("_", " "), f"{expected[name]:,}", f"at most {at_most[name]:,}")
            for name in ("calls", "prompt_tokens", "completion_tokens")
        ),
        ("cost", f"{expected['cost']:,.4f}", f"at most {at_most['cost']:,.4f}"),
        ("hours", "unknown" if expected["hours"] is None else f"{expected['hours']:,.3f}", ""),
    ]
    lines = [f"{name:<20}{value:>14}   {note}".rstrip() for name, value, note in rows]
    return "\n".join([*lines, f"estimated from {said['basis']}"])
