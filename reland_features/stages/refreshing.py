"""Behaviour of a later day in the space of a pool that is there: what `reland refresh` does instead of a fit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from reland_features.artifacts import Artifact, Draft
from reland_features.encoders.base import FITTED, ReusableEncoder
from reland_features.errors import ConfigError, EncoderMismatchError, PoolError, TableError
from reland_features.lineage import input_of
from reland_features.project import Project
from reland_features.stages.base import Outcome, Progress, run_stage

_LOG = logging.getLogger(__name__)
_SPLIT = ("holdout", "test_fraction", "min_history")


@dataclass(frozen=True)
class FittedPool:
    """What the published pool was made from, as outcomes of the stages that made it, and its encoder."""

    marts: Outcome
    encoded: Outcome
    seeds: Outcome
    rationales: Outcome
    encoder: ReusableEncoder

    def first_matches(self, project: Project) -> Artifact | None:
        """Return the newest matches of the pool's own tables; decisions about rationales may have changed it since."""
        own = {self.marts.artifact.id, self.encoded.artifact.id}
        found = [made for made in project.artifacts.all("matches") if own <= set(made.manifest["inputs"])]
        return found[-1] if found else None


def fitted_pool(project: Project) -> FittedPool:
    """Find what the published pool was made from, and check that later behaviour can be encoded as its seeds were.

    Raises
    ------
    FeatureStoreError
        Nothing is published yet.
    PoolError
        Some of it is gone, or what the encoder learnt was not kept.
    ConfigError
        The encoder cannot encode without fitting, or other events are held out than were from the pool.
    EncoderMismatchError
        The configuration names another encoder than the pool's.
    """
    store, pool = project.artifacts, Path(project.current()["pool"])
    made = input_of(store, "reasoning_pool", [pool.name], project.root / pool)

    def found(stage: str, kind: str) -> Outcome:
        return Outcome(stage, input_of(store, kind, made.manifest["inputs"], made.path), cached=True)

    encoded = found("encode", "behavior_vectors")
    marts = input_of(store, "marts", encoded.artifact.manifest["inputs"], encoded.artifact.path)
    _check_split(project, marts)
    return FittedPool(
        Outcome("prepare", marts, cached=True),
        encoded,
        found("sample", "seed_users"),
        found("generate", "rationales"),
        _encoder(project, encoded.artifact),
    )


def _encoder(project: Project, fitted: Artifact) -> ReusableEncoder:
    from reland_features import encoders

    encoder = encoders.build(project.config.encoder, project.config.seed)
    if encoder.encoder_id != fitted.manifest["encoder_id"]:
        raise EncoderMismatchError(
            "the published pool was made with another encoder",
            where="encoder and seed of reland.toml",
            got=encoder.encoder_id,
            expected=fitted.manifest["encoder_id"],
            hint="set them back, or make a new pool: reland run",
        )
    if not encoders.is_reusable(encoder):
        raise ConfigError(
            "this encoder cannot encode later behaviour without being fitted again",
            where=f"encoder.name = {project.config.encoder.name!r}",
            got=f"{type(encoder).__name__} without save(folder) or transform(interactions, as_of, fitted)",
            expected="both, see ReusableEncoder in reland_features/encoders/base.py",
            hint="write them, or make a new pool: reland run",
        )
    if not any(fitted.path.glob(f"{FITTED}*")):
        raise PoolError(
            "what the pool's encoder learnt was not kept",
            where=str(fitted.path),
            got=f"no file {FITTED}*",
            expected="a pool made by this version, with an encoder whose `save` writes such files",
            hint="make a new pool: reland run",
        )
    return encoder


def _check_split(project: Project, marts: Artifact) -> None:
    now = project.config.evaluation.model_dump()
    was, asked = ({name: known.get(name) for name in _SPLIT} for known in (marts.manifest["config"], now))
    if was != asked:
        raise ConfigError(
            "the published pool was made with other events held out: it may know what is to be predicted",
            where=", ".join(f"evaluation.{name}" for name in _SPLIT if was[name] != asked[name]),
            got=", ".join(f"{name} = {value}" for name, value in asked.items()),
            expected=", ".join(f"{name} = {value}" for name, value in was.items()),
            hint="set them back, or make a new pool: reland run",
        )


def transform(project: Project, marts: Outcome, pool: FittedPool, progress: Progress) -> Outcome:
    """Encode behaviour with the encoder that the pool's seeds were encoded with, as it was fitted then.

    Raises
    ------
    PoolError
        The tables end before those of the pool.
    TableError
        Not one user can be encoded.
    """
    from reland_features import encoders
    from reland_features.interactions import Interactions

    if marts.artifact.id == pool.marts.artifact.id:
        return pool.encoded
    fitted = pool.encoded.artifact
    if marts.as_of < pool.encoded.as_of:
        raise PoolError(
            "the tables end before those that the published pool was made from",
            where="the last interaction that is not held out, or data.as_of (--as-of)",
            got=marts.as_of,
            expected=f"{pool.encoded.as_of} or later: the pool knows behaviour up to then",
            hint="features of an earlier day need a pool of that day: reland run --as-of ...",
        )

    def work(draft: Draft) -> tuple[int, int]:
        interactions = Interactions.read(marts.artifact.table("interactions"))
        vectors = pool.encoder.transform(interactions, marts.as_of, fitted.path)
        if not len(vectors.user_ids):
            raise TableError(
                "no user has behaviour that the pool's encoder knows",
                where=str(marts.artifact.table("interactions")),
                got=f"{len(interactions):,} interactions, none of a known user or with a known item",
                expected="the users and items of the tables that the pool was made from",
                hint="make a new pool: reland run",
            )
        encoders.validate(vectors).write(draft.table("behavior_vectors"))
        known = pl.scan_parquet(pool.marts.artifact.table("interactions")).select("user_id", "item_id")
        draft.facts |= {
            "encoder_id": vectors.encoder_id,
            "training": None,
            **_since(interactions.frame.lazy(), known, pool),
            "holdout_known": _known_holdout(pl.scan_parquet(marts.artifact.table("holdout")), known),
        }
        return len(interactions), len(vectors.user_ids)

    return run_stage(
        project,
        "encode",
        "behavior_vectors",
        as_of=marts.as_of,
        config={"encoder_id": pool.encoder.encoder_id, "seed": project.config.seed, "fitted": fitted.id},
        inputs=[marts.artifact.id, fitted.id],
        work=work,
    )


def _since(interactions: pl.LazyFrame, known: pl.LazyFrame, pool: FittedPool) -> dict[str, int]:
    """Count the interactions after the pool's last one, and those of them with an item that it did not have."""
    later = interactions.filter(pl.col("interacted_at") > pool.encoded.as_of)
    new = later.join(known.select("item_id").unique(), on="item_id", how="anti")
    events, with_new_items = (frame.select(pl.len()).collect().item() for frame in (later, new))
    return {"events_since": events, "events_with_new_items": with_new_items}


def _known_holdout(holdout: pl.LazyFrame, known: pl.LazyFrame) -> int:
    """Count held-out events that the fit has seen, and warn of them.

    Where the last two of five are held out, nothing is of a user with four: its fourth event, which the fit has seen,
    is held out once there is a fifth.
    """
    pairs = holdout.select("user_id", "item_id")
    seen = pairs.join(known.unique(), on=["user_id", "item_id"], how="semi").select(pl.len()).collect().item()
    if seen:
        _LOG.warning(
            "%d of %d held-out events were behaviour when the pool was made, and its encoder knows them: train and "
            "measure rankers after `reland run`, not on a refresh",
            seen,
            pairs.select(pl.len()).collect().item(),
        )
    return int(seen)
