"""From rationales to published features: pool → match → publish."""

from __future__ import annotations

import logging
from itertools import count
from typing import Any

import numpy as np
import polars as pl

from reland_features import live_pool, publishing
from reland_features.artifacts import Draft
from reland_features.columns import USER_MATCH_DETAIL
from reland_features.curation import Curation, cover_users
from reland_features.item_texts import embed_items
from reland_features.project import Project
from reland_features.stages.base import Outcome, Progress, now, read_vectors, run_stage, text_encoder

_LOG = logging.getLogger(__name__)
COLD_START_USERS = "cold_start_users"
_MADE_WITH = ("encoder_id", "text_encoder_id", "embedded")
"""Where these are equal, similarities and rationale embeddings of two pools mean the same."""


def build_pool(project: Project, encoded: Outcome, seeds: Outcome, rationales: Outcome, progress: Progress) -> Outcome:
    """Encode the rationales (`rationales.embed`) and put them by the seeds' vectors: rationales → reasoning pool.

    What people decided about single rationales (`reland pool block`, `edit`, ...) is applied here.
    """
    from reland_features import pool as pools
    from reland_features.prompts import rationale_text

    encoder = text_encoder(project)
    components, settings = project.config.pool.components, project.config.rationales
    curation = Curation.of_project(project.state)

    def encode(written: pl.DataFrame) -> np.ndarray:
        parts = written.select("summary", "categories", "items").iter_rows()
        texts = [rationale_text(settings.embed, *row) for row in parts]
        return encoder.encode(texts) if texts else np.empty((0, 0), np.float32)

    def work(draft: Draft) -> tuple[int, int]:
        generated = pl.read_parquet(rationales.artifact.table("rationales"))
        written, embeddings, basis = curation.embed(generated, encode)
        pool = pools.build_pool(
            written,
            pl.read_parquet(seeds.artifact.table("seed_users")),
            read_vectors(encoded),
            embeddings,
            basis=basis,
            components=components,
            pool_version=draft.id.rsplit("-", 1)[-1],
            ids={
                "prompt_id": rationales.artifact.manifest["prompt_id"],
                "engine_id": rationales.artifact.manifest["engine_id"],
                "text_encoder_id": encoder.encoder_id,
            },
        )
        pool.write(draft.path)
        current = curation.restricted_to(generated)
        current.write(draft.path)
        if lapsed := sorted((curation.replaced.keys() - current.replaced.keys()) & set(generated["seed_user_id"])):
            _LOG.warning(
                "%d edited rationales are no longer in force, as the LLM has written others since: %s; look at them: "
                "reland pool decisions",
                len(lapsed),
                ", ".join(lapsed[:5]) + (", ..." if len(lapsed) > 5 else ""),
            )
        draft.facts |= {
            "pool_version": pool.pool_version,
            "encoder_id": pool.encoder_id,
            **pool.ids,
            "embedded": settings.embed,
            "text_encoder_source": encoder.source,
        }
        return rationales.rows_out, pool.frame.height

    return run_stage(
        project,
        "pool",
        "reasoning_pool",
        as_of=rationales.as_of,
        # The default is left out: pools that were made before there was a choice keep their ids.
        config={
            "text_encoder_id": encoder.encoder_id,
            "components": components,
            **settings.model_dump(include={"embed"}, exclude_defaults=True),
            **({"curation": curation.curation_id} if curation.curation_id else {}),
        },
        inputs=[encoded.artifact.id, seeds.artifact.id, rationales.artifact.id],
        work=work,
    )


def match(project: Project, marts: Outcome, encoded: Outcome, pool: Outcome, progress: Progress) -> Outcome:
    """Match every user to its most similar seed, Eq. (3), through Milvus: vectors → matches."""
    settings, milvus = project.config.match, project.config.pool
    cold_start, profile = project.config.cold_start, project.config.data.columns.users.profile

    def work(draft: Draft) -> tuple[int, int]:
        from reland_features import matching
        from reland_features import pool as pools

        mart = pl.read_parquet(marts.artifact.table("users"), columns=["user_id", "profile", "interaction_count"])
        users = mart["user_id"]
        reasoning_pool = pools.ReasoningPool.read(pool.artifact.path)
        vectors = read_vectors(encoded)
        if cold_start.enabled:
            from reland_features.cold_start import with_cold_users

            started = with_cold_users(
                vectors, mart, profile, cold_start, seeds=reasoning_pool.frame["seed_user_id"], seed=project.config.seed
            )
            vectors = started.vectors
            started.user_ids.to_frame().write_parquet(draft.table(COLD_START_USERS))
            draft.facts["cold_start"] = started.facts
        index = live_pool.open_index(project)
        try:
            pools.install(reasoning_pool, index, milvus.collection_prefix)
            matches = matching.match_users(
                vectors,
                reasoning_pool,
                index,
                prefix=milvus.collection_prefix,
                users=users,
                k=settings.top_k,
                batch_size=settings.batch_size,
                on_progress=progress,
            )
            live_pool.make_live(project, reasoning_pool, index)
        finally:
            index.close()
        matches.write_parquet(draft.table("matches"))
        matched = matches.filter(pl.col("rank") == 1, pl.col("seed_user_id").is_not_null()).height
        draft.facts |= {"users": len(users), "matched": matched}
        return len(users), matched

    outcome = run_stage(
        project,
        "match",
        "matches",
        as_of=encoded.as_of,
        # Defaults are left out: matches that were made before there was a choice keep their ids.
        config={
            "matcher": settings.matcher,
            "index": milvus.index,
            "uri": milvus.uri,
            **settings.model_dump(include={"top_k"}, exclude_defaults=True),
            **({"cold_start": cold_start.model_dump(), "profile": list(profile)} if cold_start.enabled else {}),
        },
        inputs=[marts.artifact.id, encoded.artifact.id, pool.artifact.id],
        work=work,
    )
    if outcome.cached:
        live_pool.keep_live(project, pool.artifact)
    return outcome


def publish(
    project: Project, marts: Outcome, seeds: Outcome, pool: Outcome, matches: Outcome, progress: Progress
) -> Outcome:
    """Append the feature tables and bring the Feast stores up to date: matches → features."""
    from reland_features import features
    from reland_features import pool as pools

    publishing.finish_started(project.features)  # here too: below, nothing is published where all is cached
    encoder = text_encoder(project)
    version = pool.artifact.manifest["pool_version"]
    is_detailed = project.config.match.top_k > 1 or project.config.cold_start.enabled
    mixing = {"temperature": project.config.match.temperature} if is_detailed else {}

    def work(draft: Draft) -> tuple[int, int]:
        items = pl.read_parquet(marts.artifact.table("items"))
        cold = matches.artifact.table(COLD_START_USERS)
        frames = features.build_features(
            pool=pools.ReasoningPool.read(pool.artifact.path).frame,
            pool_version=version,
            matches=pl.read_parquet(matches.artifact.table("matches")),
            users=pl.read_parquet(marts.artifact.table("users")),
            histories=pl.read_parquet(marts.artifact.table("user_histories")),
            items=items,
            item_text_embeddings=embed_items(items, encoder, project.artifacts, project.features),
            as_of=matches.as_of,
            created_at=publishing.creation_time(project.features, matches.as_of, now()),
            # Once there, the table goes on with every run: the newest row of a user must be of the newest run.
            match_detail=is_detailed or (project.features / USER_MATCH_DETAIL.name).is_dir(),
            cold_start=pl.read_parquet(cold)["user_id"].to_list() if cold.is_file() else (),
            **mixing,
        )
        curation = Curation.read(pool.artifact.path)
        frames["seed_rationale"] = curation.publishable(frames["seed_rationale"])
        if curation.blocked:
            frames = cover_users(frames, publishing.users_of(project.features, curation.blocked, without=draft.id))
        paths = publishing.publish(frames, project.features, draft.id)
        draft.facts |= {
            "run_id": draft.id,
            "pool_version": version,
            "tables": {path.parent.name: frames[path.parent.name].height for path in paths},
        }
        return matches.rows_in, frames["user_rationale"].height

    config: dict[str, Any] = {"text_encoder_id": encoder.encoder_id, **mixing}
    inputs = [marts.artifact.id, seeds.artifact.id, pool.artifact.id, matches.artifact.id]
    for again in count():
        # Feast takes the last created rows, and published ones are never edited: where another run's hide these, as
        # after going back to an earlier configuration, they are published once more. Without that the id is plain.
        named = config | ({"again": again} if again else {})
        run_id = project.artifacts.id_of("features", matches.as_of, named, inputs)
        if publishing.is_hidden(project.features, run_id, matches.as_of):
            continue
        outcome = run_stage(
            project,
            "publish",
            "features",
            as_of=matches.as_of,
            config=named,
            inputs=inputs,
            work=work,
            still_holds=lambda run: publishing.is_complete(project.features, run.id, run.manifest["tables"]),
        )
        # What a kill left staged has its old timestamp when it is published at last.
        if outcome.cached or not publishing.is_hidden(project.features, run_id, matches.as_of):
            break
    project.set_current(
        {
            "marts": str(marts.artifact.path.relative_to(project.root)),
            "pool": str(pool.artifact.path.relative_to(project.root)),
            "as_of": outcome.as_of.isoformat(),
            "features_run": outcome.artifact.id,
            "pool_version": version,
            "pool_made_with": {name: pool.artifact.manifest.get(name) for name in _MADE_WITH},
        }
    )
    return outcome
