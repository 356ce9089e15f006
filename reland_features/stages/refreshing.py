"""Behaviour of a later day in the space of a pool that is there: what `reland refresh` does instead of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from reland_features.artifacts import Draft
from reland_features.errors import ConfigError, EncoderMismatchError, PoolError, TableError
from reland_features.finished_pool import input_of
from reland_features.project import Project
from reland_features.stages.base import Outcome, Progress, run_stage


@dataclass(frozen=True)
class FittedPool:
    """What the published pool was made from, as outcomes of the stages that made it."""

    marts: Outcome
    encoded: Outcome
    seeds: Outcome
    rationales: Outcome


def fitted_pool(project: Project) -> FittedPool:
    """Find what the published pool was made from.

    Raises
    ------
    FeatureStoreError
        Nothing is published yet.
    PoolError
        Some of it is gone.
    """
    store, pool = project.artifacts, Path(project.current()["pool"])
    made = input_of(store, "reasoning_pool", [pool.name], project.root / pool)

    def found(stage: str, kind: str) -> Outcome:
        return Outcome(stage, input_of(store, kind, made.manifest["inputs"], made.path), cached=True)

    encoded = found("encode", "behavior_vectors")
    marts = input_of(store, "marts", encoded.artifact.manifest["inputs"], encoded.artifact.path)
    return FittedPool(
        Outcome("prepare", marts, cached=True),
        encoded,
        found("sample", "seed_users"),
        found("generate", "rationales"),
    )


def transform(project: Project, marts: Outcome, pool: FittedPool, progress: Progress) -> Outcome:
    """Encode behaviour with the encoder that the pool's seeds were encoded with, as it was fitted then.

    Raises
    ------
    PoolError
        The tables end before those of the pool, or what the encoder learnt was not kept.
    ConfigError
        The encoder cannot encode without fitting.
    EncoderMismatchError
        The configuration names another encoder than the pool's.
    TableError
        Not one user can be encoded.
    """
    from reland_features import encoders
    from reland_features.interactions import Interactions

    if marts.artifact.id == pool.marts.artifact.id:
        return pool.encoded
    fitted = pool.encoded.artifact
    encoder = encoders.build(project.config.encoder, project.config.seed)
    if encoder.encoder_id != fitted.manifest["encoder_id"]:
        raise EncoderMismatchError(
            "the published pool was made with another encoder",
            where="encoder and seed of reland.toml",
            got=encoder.encoder_id,
            expected=fitted.manifest["encoder_id"],
            hint="set them back, or make a new pool: reland run",
        )
    if not isinstance(encoder, encoders.ReusableEncoder):
        raise ConfigError(
            "this encoder cannot encode later behaviour without being fitted again",
            where=f"encoder.name = {project.config.encoder.name!r}",
            got=f"{type(encoder).__name__} without save or transform",
            expected="both, see ReusableEncoder in reland_features/encoders/base.py",
            hint="write them, or make a new pool: reland run",
        )
    if not any(fitted.path.glob(f"{encoders.FITTED}*")):
        raise PoolError(
            "what the pool's encoder learnt was not kept",
            where=str(fitted.path),
            got=f"no file {encoders.FITTED}*",
            expected="a pool made by this version",
            hint="make a new pool: reland run",
        )
    if marts.as_of < pool.encoded.as_of:
        raise PoolError(
            "the published pool knows behaviour that is later than these tables",
            where="--as-of or data.as_of",
            got=marts.as_of,
            expected=f"{pool.encoded.as_of} or later",
            hint="features of an earlier day need a pool of that day: reland run --as-of ...",
        )

    def work(draft: Draft) -> tuple[int, int]:
        interactions = Interactions.read(marts.artifact.table("interactions"))
        vectors = encoder.transform(interactions, marts.as_of, fitted.path)
        if not len(vectors.user_ids):
            raise TableError(
                "no user has behaviour that the pool's encoder knows",
                where=str(marts.artifact.table("interactions")),
                got=f"{len(interactions):,} interactions, none of a known user or with a known item",
                expected="the users and items of the tables that the pool was made from",
                hint="make a new pool: reland run",
            )
        encoders.validate(vectors).write(draft.table("behavior_vectors"))
        items = pl.scan_parquet(pool.marts.artifact.table("interactions")).select("item_id").unique()
        new = interactions.frame.lazy().join(items, on="item_id", how="anti").select(pl.len()).collect().item()
        draft.facts |= {"encoder_id": vectors.encoder_id, "training": None, "events_with_new_items": new}
        return len(interactions), len(vectors.user_ids)

    return run_stage(
        project,
        "encode",
        "behavior_vectors",
        as_of=marts.as_of,
        config={"encoder_id": encoder.encoder_id, "seed": project.config.seed, "fitted": fitted.id},
        inputs=[marts.artifact.id, fitted.id],
        work=work,
    )
