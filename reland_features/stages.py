"""The stages of the main job: each reads finished tables, writes one artifact, and can be re-run alone.

A stage's artifact id hashes the configuration that matters to it and its inputs' ids, so a stage whose
inputs did not change is not computed again.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reland_features.artifacts import Artifact, Draft, content_id, file_id
from reland_features.columns import MARTS
from reland_features.errors import CheckError, FeatureStoreError
from reland_features.project import Project, models_cache

Progress = Callable[[int, int], None]
"""Called with (done, total) while a stage works."""


@dataclass(frozen=True)
class Outcome:
    """What a stage gave: its artifact, whether it was there already, and how many rows went through."""

    stage: str
    artifact: Artifact
    cached: bool

    @property
    def as_of(self) -> datetime:
        """The last instant of behaviour the artifact rests on (UTC)."""
        return datetime.fromisoformat(self.artifact.manifest["as_of"])

    @property
    def rows_in(self) -> int:
        """Rows read."""
        return int(self.artifact.manifest["rows_in"])

    @property
    def rows_out(self) -> int:
        """Rows written."""
        return int(self.artifact.manifest["rows_out"])

    @property
    def seconds(self) -> float:
        """Seconds the work took when it was done."""
        return float(self.artifact.manifest["seconds"])


def run_stage(
    project: Project,
    stage: str,
    kind: str,
    *,
    as_of: datetime | None,
    config: Mapping[str, Any],
    inputs: Sequence[str],
    work: Callable[[Draft], tuple[int, int]],
) -> Outcome:
    """Return the finished artifact, or make it with `work`, which returns (rows in, rows out)."""
    store = project.artifacts
    artifact_id = store.id_of(kind, as_of, config, inputs)
    if found := store.find(kind, artifact_id):
        return Outcome(stage, found, cached=True)
    started = time.perf_counter()
    with store.create(kind, artifact_id, created_at=_now(), config=config, inputs=inputs, as_of=as_of) as draft:
        rows_in, rows_out = work(draft)
        draft.facts |= {"rows_in": rows_in, "rows_out": rows_out, "seconds": round(time.perf_counter() - started, 2)}
    made = store.find(kind, artifact_id)
    assert made is not None
    return Outcome(stage, made, cached=False)


def prepare(project: Project, progress: Progress) -> Outcome:
    """Check the sources and run dbt: source tables → marts."""
    from reland_features import prepare as dbt
    from reland_features.sources import check_sources, source_ids

    settings, evaluation = project.config.data, project.config.evaluation
    config: dict[str, Any] = {
        **settings.model_dump(mode="json", exclude={"memory_limit"}),
        "holdout": evaluation.holdout,
        "min_history": evaluation.min_history,
        "dbt_package": _folder_id(project.dbt),
    }
    known = settings.target == "duckdb"
    inputs = sorted(f"{name}:{identity}" for name, identity in source_ids(project.config, project.root).items())

    def build(folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
        if problems := check_sources(project.config, project.root, _now()):
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

    def work(draft: Draft) -> tuple[int, int]:
        from reland_features.seeds import sample_seeds, seed_budget

        vectors = read_vectors(encoded)
        users = pl.read_parquet(marts.artifact.table("users"), columns=["user_id", "interaction_count"])
        counts = pl.DataFrame({"user_id": vectors.user_ids}).join(
            users, on="user_id", how="left", maintain_order="left"
        )
        drawn = sample_seeds(
            vectors,
            counts["interaction_count"].to_numpy(),
            budget=seed_budget(settings, len(vectors.user_ids)),
            clusters=settings.clusters,
            generator=np.random.default_rng(project.config.seed),
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
        config={**settings.model_dump(mode="json"), "seed": project.config.seed},
        inputs=[encoded.artifact.id],
        work=work,
    )


def generate(project: Project, marts: Outcome, seeds: Outcome, progress: Progress) -> Outcome:
    """Let the LLM reason about the seeds (3.1.2), through the ledger: seeds → rationales."""
    from reland_features import engines
    from reland_features.ledger import Ledger
    from reland_features.prompts import PromptTemplate
    from reland_features.rationales import generate as write_rationales

    settings = project.config.rationales
    template = PromptTemplate.load(settings.prompt, base=project.root)
    engine = engines.build(settings, models_cache())

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
            "prompt_id": template.prompt_id,
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


def build_pool(project: Project, encoded: Outcome, seeds: Outcome, rationales: Outcome, progress: Progress) -> Outcome:
    """Encode the Step 2 texts and put them beside the seeds' vectors: rationales → reasoning pool."""
    from reland_features import pool as pools
    from reland_features.prompts import step2_text

    encoder = text_encoder(project)
    components = project.config.pool.components

    def work(draft: Draft) -> tuple[int, int]:
        written = pl.read_parquet(rationales.artifact.table("rationales")).filter(pl.col("status") == "ok")
        texts = [step2_text(r["categories"], r["items"]) for r in written.iter_rows(named=True)]
        pool = pools.build_pool(
            written,
            pl.read_parquet(seeds.artifact.table("seed_users")),
            read_vectors(encoded),
            encoder.encode(texts) if texts else np.empty((0, 0), np.float32),
            components=components,
            pool_version=draft.id.rsplit("-", 1)[-1],
            ids={
                "prompt_id": rationales.artifact.manifest["prompt_id"],
                "engine_id": rationales.artifact.manifest["engine_id"],
                "text_encoder_id": encoder.encoder_id,
            },
        )
        pool.write(draft.path)
        draft.facts |= {
            "pool_version": pool.pool_version,
            "encoder_id": pool.encoder_id,
            **pool.ids,
            "text_encoder_source": encoder.source,
        }
        return rationales.rows_out, pool.frame.height

    return run_stage(
        project,
        "pool",
        "reasoning_pool",
        as_of=rationales.as_of,
        config={"text_encoder_id": encoder.encoder_id, "components": components},
        inputs=[encoded.artifact.id, seeds.artifact.id, rationales.artifact.id],
        work=work,
    )


def match(project: Project, marts: Outcome, encoded: Outcome, pool: Outcome, progress: Progress) -> Outcome:
    """Match every user to its most similar seed, Eq. (3), through Milvus: vectors → matches."""
    settings, milvus = project.config.match, project.config.pool

    def work(draft: Draft) -> tuple[int, int]:
        from reland_features import matching
        from reland_features import pool as pools
        from reland_features.index import ExactIndex, MilvusIndex

        users = pl.read_parquet(marts.artifact.table("users"), columns=["user_id"])["user_id"]
        reasoning_pool = pools.ReasoningPool.read(pool.artifact.path)
        index = (
            ExactIndex() if settings.matcher == "exact" else MilvusIndex(project.pool_uri, milvus.token, milvus.index)
        )
        try:
            pools.install(reasoning_pool, index, milvus.collection_prefix)
            matches = matching.match_users(
                read_vectors(encoded),
                reasoning_pool,
                index,
                prefix=milvus.collection_prefix,
                users=users,
                batch_size=settings.batch_size,
                on_progress=progress,
            )
            pools.promote(reasoning_pool.pool_version, index, milvus.collection_prefix)
        finally:
            index.close()
        matches.write_parquet(draft.table("matches"))
        matched = matches.filter(pl.col("seed_user_id").is_not_null()).height
        draft.facts |= {"users": len(users), "matched": matched}
        return len(users), matched

    return run_stage(
        project,
        "match",
        "matches",
        as_of=encoded.as_of,
        config={"matcher": settings.matcher, "index": milvus.index, "uri": milvus.uri},
        inputs=[marts.artifact.id, encoded.artifact.id, pool.artifact.id],
        work=work,
    )


def publish(
    project: Project, marts: Outcome, seeds: Outcome, pool: Outcome, matches: Outcome, progress: Progress
) -> Outcome:
    """Append the feature tables and bring the Feast stores up to date: matches → features."""
    from reland_features import features
    from reland_features import pool as pools

    encoder = text_encoder(project)
    version = pool.artifact.manifest["pool_version"]

    def work(draft: Draft) -> tuple[int, int]:
        items = pl.read_parquet(marts.artifact.table("items"))
        frames = features.build_features(
            pool=pools.ReasoningPool.read(pool.artifact.path).frame,
            pool_version=version,
            matches=pl.read_parquet(matches.artifact.table("matches")),
            users=pl.read_parquet(marts.artifact.table("users")),
            histories=pl.read_parquet(marts.artifact.table("user_histories")),
            items=items,
            item_text_embeddings=encoder.encode(features.item_text(items)),
            as_of=matches.as_of,
            created_at=_now(),
        )
        paths = features.publish(frames, project.features, draft.id)
        draft.facts |= {
            "run_id": draft.id,
            "pool_version": version,
            "tables": {path.parent.name: frames[path.parent.name].height for path in paths},
        }
        return matches.rows_in, frames["user_rationale"].height

    outcome = run_stage(
        project,
        "publish",
        "features",
        as_of=matches.as_of,
        config={"text_encoder_id": encoder.encoder_id},
        inputs=[marts.artifact.id, seeds.artifact.id, pool.artifact.id, matches.artifact.id],
        work=work,
    )
    project.set_current(
        {
            "marts": str(marts.artifact.path.relative_to(project.root)),
            "pool": str(pool.artifact.path.relative_to(project.root)),
            "as_of": outcome.as_of.isoformat(),
            "features_run": outcome.artifact.id,
            "pool_version": version,
        }
    )
    return outcome


def serve(project: Project, published: Outcome, progress: Progress) -> Outcome:
    """Apply the Feast repository and materialize the published run into the online store."""
    from reland_features import feature_store

    settings = project.config.feast

    def work(draft: Draft) -> tuple[int, int]:
        if settings.apply:
            feature_store.apply_repository(project.feature_repo)
        counts = {}
        if settings.materialize:
            counts = feature_store.materialize(project.feature_repo, project.features, published.artifact.id)
        draft.facts["materialized"] = counts
        return published.rows_out, sum(counts.values())

    inputs = [published.artifact.id, _folder_id(project.feature_repo)]
    config = settings.model_dump()
    noted = project.artifacts.find(
        "online_store", project.artifacts.id_of("online_store", published.as_of, config, inputs)
    )
    if noted and settings.materialize and not _is_online(project, published):
        # Someone emptied or refilled the online store since: the note that it was filled is void.
        shutil.rmtree(noted.path)
    return run_stage(project, "feast", "online_store", as_of=published.as_of, config=config, inputs=inputs, work=work)


def _is_online(project: Project, published: Outcome) -> bool:
    from reland_features import feature_store

    try:
        feature_store.check_freshness(project.feature_repo, project.features, published.artifact.id)
    except FeatureStoreError:
        return False
    return True


def text_encoder(project: Project) -> Any:
    """Return the text encoder of rationales and items; weights are loaded at the first text."""
    from reland_features.text_encoder import HFTextEncoder

    settings = project.config.text_encoder
    return HFTextEncoder(settings.model, settings.revision, batch_size=settings.batch_size, cache=models_cache())


def read_vectors(encoded: Outcome) -> Any:
    """Read the behaviour vectors of an `encode` outcome."""
    from reland_features.encoders.base import BehaviorVectors

    path = encoded.artifact.table("behavior_vectors")
    return BehaviorVectors.read(path, encoded.artifact.manifest["encoder_id"], encoded.as_of)


def package_version() -> str:
    """Return the installed version of this package."""
    return importlib.metadata.version("reland-features")


def _folder_id(folder: Path) -> str:
    """Hash the source files of a folder; what tools generate in it does not count."""
    generated = {"target", "logs", "data", "__pycache__"}
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not generated & set(p.relative_to(folder).parts) and p.name[0] != "."
    )
    return content_id({str(p.relative_to(folder)): file_id(p) for p in files})


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
