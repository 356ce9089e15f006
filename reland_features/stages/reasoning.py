"""From tables to rationales: prepare → encode → sample → generate."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reland_features.artifacts import Draft, file_id
from reland_features.columns import MARTS
from reland_features.errors import CheckError
from reland_features.project import Project
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
    inputs = [f"{table.name}:{file_id(incoming / f'{table.name}.parquet')}" for table in MARTS]

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
        interactions = Interactions.read(marts.artifact.table("interactions"))
        vectors = encoders.validate(encoder.encode(interactions, marts.as_of))
        vectors.write(draft.table("behavior_vectors"))
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


def generate(project: Project, marts: Outcome, seeds: Outcome, progress: Progress) -> Outcome:
    """Let the LLM reason about the seeds (3.1.2), through the ledger: seeds → rationales."""
    from reland_features.ledger import Ledger
    from reland_features.prompts import PromptTemplate
    from reland_features.rationales import generate as write_rationales

    settings = project.config.rationales
    template = PromptTemplate.of(settings, base=project.root)
    engine = llm_engine(project)
    is_imported = settings.engine == "imported"

    def work(draft: Draft) -> tuple[int, int]:
        with Ledger(project.ledger) as ledger:
            result = write_rationales(
                pl.read_parquet(seeds.artifact.table("seed_users")),
                pl.read_parquet(marts.artifact.table("user_histories")),
                pl.read_parquet(marts.artifact.table("items")),
                template,
                engine,
                ledger,
                settings,
                on_progress=progress,
            )
        result.frame.write_parquet(draft.table("rationales"))
        draft.facts |= {
            "engine_id": engine.engine_id,
            "engine_source": engine.source,
            "prompt_id": f"imported, read as {template.prompt_id}" if is_imported else template.prompt_id,
            "step1_only": result.frame.filter(pl.col("status") == "ok", pl.col("items").list.len() == 0).height,
            "usage": result.usage,
        }
        return seeds.rows_out, result.frame.filter(pl.col("status") == "ok").height

    try:
        return run_stage(
            project,
            "generate",
            "rationales",
            as_of=seeds.as_of,
            config={
                "engine_id": engine.engine_id,
                "parameters": engine.parameters,
                "prompt_id": template.prompt_id,
                **settings.model_dump(mode="json", include={"max_history", "categories", "items", "max_tokens"}),
            },
            inputs=[marts.artifact.id, seeds.artifact.id],
            work=work,
        )
    finally:
        engine.close()
