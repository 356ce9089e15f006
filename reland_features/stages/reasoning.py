"""From tables to rationales: prepare → encode → sample → generate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reland_features.artifacts import Artifact, Draft, content_id, file_id
from reland_features.columns import IMPRESSIONS, MARTS
from reland_features.config import Rationales
from reland_features.engines.base import Engine
from reland_features.errors import CheckError, ConfigError
from reland_features.ledger import Ledger
from reland_features.lineage import warn_of_another_pool
from reland_features.project import Project
from reland_features.retries import note_retry, retries_of
from reland_features.rounds import too_many_failures
from reland_features.stages.base import (
    Outcome,
    Progress,
    folder_id,
    imported_texts,
    llm_engine,
    now,
    read_vectors,
    run_stage,
)

_RECIPE = 2  # how requests are made of the tables; raise it where the same tables would give other requests


def prepare(project: Project, progress: Progress) -> Outcome:
    """Check the sources and run dbt: source tables → marts."""
    from reland_features import prepare as dbt
    from reland_features.sources import check_sources, source_ids

    settings, evaluation = project.config.data, project.config.evaluation
    config: dict[str, Any] = {
        **settings.model_dump(mode="json", exclude={"memory_limit"}),
        "holdout": evaluation.holdout,
        "test_fraction": evaluation.test_fraction,
        "min_history": evaluation.min_history,
        "dbt_package": folder_id(project.dbt),
    }
    known = settings.target == "duckdb"
    inputs = sorted(f"{name}:{identity}" for name, identity in source_ids(project.config, project.root).items())

    def build(folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
        if problems := check_sources(project.config, project.root, now()):
            raise CheckError(problems)
        result = dbt.run_dbt(
            project.dbt,
            target=settings.target,
            vars=dbt.dbt_vars(project.config, project.root),
            marts_path=folder,
            state_path=project.state / "dbt",
        )
        as_of = settings.as_of or result.last_interacted_at
        assert as_of is not None  # a dbt test fails on marts without interactions
        return dict(result.rows), {"as_of": as_of.isoformat(), "warnings": list(result.warnings)}

    def work(draft: Draft) -> tuple[int, int]:
        rows, facts = build(draft.path)
        draft.facts |= {"rows": rows, **facts}
        return rows["interactions"] + rows["holdout"], rows["interactions"]

    if known:
        return run_stage(project, "prepare", "marts", as_of=None, config=config, inputs=inputs, work=work)

    # A database says nothing of its content: run dbt always, and name the marts by what came out.
    incoming = project.state / "incoming-marts"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    rows, facts = build(incoming)
    # Impressions are optional: without them the id is that of the other marts.
    built = [*MARTS, IMPRESSIONS] if IMPRESSIONS.name in rows else MARTS
    inputs = [f"{table.name}:{file_id(incoming / f'{table.name}.parquet')}" for table in built]

    def move(draft: Draft) -> tuple[int, int]:
        for file in incoming.iterdir():
            shutil.move(file, draft.path)
        draft.facts |= {"rows": rows, **facts}
        return rows["interactions"] + rows["holdout"], rows["interactions"]

    return run_stage(project, "prepare", "marts", as_of=None, config=config, inputs=inputs, work=move)


def encode(project: Project, marts: Outcome, progress: Progress) -> Outcome:
    """Fit the behaviour encoder, Eq. (1): interactions → one vector per user."""
    from reland_features import encoders
    from reland_features.interactions import Interactions

    settings = project.config.encoder
    encoder = encoders.build(settings, project.config.seed)

    def work(draft: Draft) -> tuple[int, int]:
        warn_of_another_pool(project, marts.artifact, encoder.encoder_id)
        interactions = Interactions.read(marts.artifact.table("interactions"))
        vectors = encoders.validate(encoder.encode(interactions, marts.as_of))
        vectors.write(draft.table("behavior_vectors"))
        if encoders.is_reusable(encoder):
            encoder.save(draft.path)  # for `reland refresh`
        draft.facts |= {"encoder_id": vectors.encoder_id, "training": getattr(encoder, "training", None)}
        return len(interactions), len(vectors.user_ids)

    return run_stage(
        project,
        "encode",
        "behavior_vectors",
        as_of=marts.as_of,
        config={"encoder_id": encoder.encoder_id, "seed": project.config.seed},
        inputs=[marts.artifact.id],
        work=work,
    )


def sample(project: Project, marts: Outcome, encoded: Outcome, progress: Progress) -> Outcome:
    """Sample the seed users (3.1.1): vectors and interaction counts → seeds and clusters."""
    settings = project.config.seeds
    texts = imported_texts(project)

    def work(draft: Draft) -> tuple[int, int]:
        from reland_features.seed_curve import affordable_seeds
        from reland_features.seeds import sample_seeds, seed_budget

        vectors = read_vectors(encoded)
        users = pl.read_parquet(marts.artifact.table("users"), columns=["user_id", "interaction_count"])
        counts = pl.DataFrame({"user_id": vectors.user_ids}).join(
            users, on="user_id", how="left", maintain_order="left"
        )
        n_interactions = counts["interaction_count"].to_numpy()
        among = texts.usable if texts else None
        budget = seed_budget(settings, len(vectors.user_ids))
        if settings.min_marginal_similarity is not None:
            advice = affordable_seeds(
                vectors, n_interactions, settings, limit=budget, seed=project.config.seed, among=among
            )
            draft.facts["plan"] = {"limit": budget, "seeds": advice.seeds, "reason": advice.reason}
            budget = advice.seeds
        drawn = sample_seeds(
            vectors,
            n_interactions,
            budget=budget,
            clusters=settings.clusters,
            generator=np.random.default_rng(project.config.seed),
            among=among,
            sampler=settings.sampler,
        )
        drawn.seeds.write_parquet(draft.table("seed_users"))
        drawn.user_clusters.write_parquet(draft.table("user_clusters"))
        draft.facts["clusters"] = len(drawn.centers)
        return len(vectors.user_ids), drawn.seeds.height

    return run_stage(
        project,
        "sample",
        "seed_users",
        as_of=encoded.as_of,
        config={
            **settings.model_dump(mode="json", exclude={"sampler", "min_marginal_similarity"}),
            # Defaults are left out: seeds that were drawn before there was a choice keep their ids.
            **settings.model_dump(include={"sampler", "min_marginal_similarity"}, exclude_defaults=True),
            "seed": project.config.seed,
            **(texts.parameters if texts else {}),
        },
        inputs=[encoded.artifact.id, *([texts.id] if texts else [])],
        work=work,
    )


def generate(
    project: Project, marts: Outcome, seeds: Outcome, progress: Progress, *, retry_failed: bool = False
) -> Outcome:
    """Let the LLM reason about the seeds (3.1.2), through the ledger: seeds → rationales.

    With `retry_failed` finished rationales of which some failed or are invalid are made anew: those seeds are asked
    again, and from then on the new rationales take the place of the old ones.
    """
    from reland_features.prompts import PromptTemplate
    from reland_features.rationales import generate as write_rationales
    from reland_features.seed_tables import SeedTables
    from reland_features.usage_counters import UsageCounters

    settings = project.config.rationales
    template = PromptTemplate.of(settings, base=project.root)
    engine = llm_engine(project)
    is_imported = settings.engine == "imported"
    if is_imported and retry_failed:
        raise ConfigError("imported texts cannot be asked for again", where="--retry-failed", hint="import better ones")
    counters = UsageCounters(project.counters, project.config.name)

    def work(draft: Draft) -> tuple[int, int]:
        def progressed(done: int, total: int) -> None:
            progress(done, total)
            counters.refresh(ledger)

        result = write_rationales(
            SeedTables.read(marts.artifact, pl.read_parquet(seeds.artifact.table("seed_users"))),
            template,
            engine,
            ledger,
            settings,
            on_progress=progressed,
            retry_failed=retry_failed,
        )
        result.frame.write_parquet(draft.table("rationales"))
        draft.facts |= {
            "engine_id": engine.engine_id,
            "engine_source": engine.source,
            "prompt_id": f"imported, read as {template.prompt_id}" if is_imported else template.prompt_id,
            "step1_only": result.frame.filter(pl.col("status") == "ok", pl.col("items").list.len() == 0).height,
            "usage": result.usage,
            "predicted": predicted(project, draft.id),
        }
        return seeds.rows_out, result.frame.filter(pl.col("status") == "ok").height

    config, inputs = generation(project, template.prompt_id, engine, marts, seeds, retry_failed=retry_failed)
    if retry_failed:
        note_retry(project.retries, _unretried(config, inputs), config.get("retried", 0))
    try:
        with Ledger(project.ledger) as ledger:
            if not is_imported:
                ledger.set_prices(engine.engine_id, settings.prompt_price, settings.completion_price)
            try:
                outcome = run_stage(
                    project, "generate", "rationales", as_of=seeds.as_of, config=config, inputs=inputs, work=work
                )
                if outcome.cached:
                    _check_failures(outcome.artifact, settings, ledger)
                return outcome
            finally:
                counters.write(ledger)
    finally:
        engine.close()


def _check_failures(made: Artifact, settings: Rationales, ledger: Ledger) -> None:
    """Hold finished rationales to the share of failures that is allowed now: more may have been when they were made."""
    rows = pl.read_parquet(made.table("rationales"), columns=["status", "reason"])
    reasons = rows.filter(pl.col("status") != "ok")["reason"].to_list()
    if len(reasons) > settings.max_failed_fraction * rows.height:
        # What is finished is not asked for again by itself, failed calls neither.
        raise too_many_failures(reasons, rows.height, settings, ledger, needs_retry=True)


def generation(
    project: Project, prompt_id: str, engine: Engine, marts: Outcome, seeds: Outcome, *, retry_failed: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Return configuration and inputs that name the rationales; with `retry_failed` those of the next retry.

    Finished rationales without a failed seed, and ones that a retry has not finished, need no further retry.
    """
    settings = project.config.rationales
    config: dict[str, Any] = {
        "engine_id": engine.engine_id,
        "parameters": engine.parameters,
        "prompt_id": prompt_id,
        **settings.model_dump(mode="json", include={"max_history", "categories", "items", "max_tokens"}),
        "recipe": _RECIPE,
    }
    inputs = [marts.artifact.id, seeds.artifact.id]
    retried = retries_of(project.retries, _unretried(config, inputs))
    now_is = config | ({"retried": retried} if retried else {})
    made = project.artifacts.find("rationales", project.artifacts.id_of("rationales", seeds.as_of, now_is, inputs))
    return (config | {"retried": retried + 1} if retry_failed and made and _has_failed(made) else now_is), inputs


def _unretried(config: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Return what rationales and their retries have in common."""
    return content_id([{key: value for key, value in config.items() if key != "retried"}, list(inputs)])


def predicted(project: Project, artifact_id: str) -> dict[str, Any] | None:
    """Return what the last dry run predicted, if it was for these rationales."""
    if not project.dry_run.is_file():
        return None
    said: dict[str, Any] = json.loads(project.dry_run.read_text())
    return said if said["rationales"] == artifact_id else None


def _has_failed(made: Artifact) -> bool:
    """Say whether a seed that can be asked about has no usable rationale."""
    rows = pl.read_parquet(made.table("rationales"), columns=["status", "ledger_key"])
    return rows.filter(pl.col("status") != "ok", pl.col("ledger_key") != "").height > 0
