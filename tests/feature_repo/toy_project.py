"""A tiny project folder as `reland run` leaves it, made without dbt and without an LLM.

Tastes decide: users of one taste are matched to seeds whose rationale points at the items of that
taste, while categories, popularity and activity say nothing about what is held out.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from reland_features.columns import HOLDOUT, INTERACTIONS, ITEMS, MATCHES, POOL, USER_HISTORIES, USERS
from reland_features.features import build_features
from reland_features.publishing import publish

AS_OF = datetime(2024, 3, 1, 12)
CREATED_AT = datetime(2024, 3, 2)
REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"
MADE_WITH = {"encoder_id": "toy", "text_encoder_id": "toy text", "embedded": "recommendations"}
GENRES = ("Drama", "Comedy", "Western", "Crime", "Animation")


@dataclass(frozen=True)
class Toy:
    """Tables of the toy world; `taste` is what the rationale knows and the baseline does not."""

    pool: pl.DataFrame
    matches: pl.DataFrame
    users: pl.DataFrame
    histories: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    holdout: pl.DataFrame
    embeddings: np.ndarray

    def features(self, pool_version: str = "pool-1", created_at: datetime = CREATED_AT) -> dict[str, pl.DataFrame]:
        """Build the feature tables."""
        return build_features(
            self.pool,
            pool_version,
            self.matches,
            self.users,
            self.histories,
            self.items,
            self.embeddings,
            as_of=AS_OF,
            created_at=created_at,
        )


def make_toy(users: int = 30, items: int = 40, seeds: int = 6, tastes: int = 3, width: int = 16, seed: int = 0) -> Toy:
    """Draw a toy world; the last two users have no match, the last has no behaviour at all."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(width, width)))[0][:tastes]
    item_taste = np.arange(items) % tastes
    embeddings = _unit(directions[item_taste] + 0.15 * rng.normal(size=(items, width)))
    seed_taste = np.arange(seeds) % tastes
    rationale = _unit(directions[seed_taste] + 0.15 * rng.normal(size=(seeds, width)))
    item_ids = [f"i{n}" for n in range(items)]
    taste = rng.integers(tastes, size=users)
    rows: list[dict[str, object]] = []
    held: list[dict[str, object]] = []
    for user in range(users - 1):
        history = rng.choice(items, size=int(rng.integers(4, 12)), replace=False)
        left = np.setdiff1d(np.flatnonzero(item_taste == taste[user]), history)
        positives = rng.choice(left, size=2, replace=False)
        start = AS_OF - timedelta(days=30)
        for order, item in enumerate(history, 1):
            rows.append(_event(user, item_ids[item], start + timedelta(hours=order), interaction_order=order))
        for rank, item in enumerate(positives, 1):
            held.append(_event(user, item_ids[item], AS_OF + timedelta(hours=3 - rank), holdout_rank=rank))
    interactions = pl.DataFrame(rows).with_columns(event_type=pl.lit("interaction"), weight=pl.lit(1.0))
    counts = interactions.group_by("item_id").agg(interaction_count=pl.len().cast(pl.Int64))
    histories = interactions.group_by("user_id", maintain_order=True).agg(
        item_ids=pl.col("item_id"), interaction_count=pl.len().cast(pl.Int64), last=pl.col("interacted_at").max()
    )
    matched = users - 2
    return Toy(
        pool=_table(
            POOL,
            seed_user_id=[f"u{n}" for n in range(seeds)],
            cluster_id=seed_taste,
            vector=[[float(n), 1.0] for n in range(seeds)],
            rationale_embedding=rationale,
            rationale_components=rationale[:, :8],
            summary=[f"Likes taste {t}." for t in seed_taste],
            categories=[[GENRES[t % len(GENRES)]] for t in seed_taste],
            items=[["A film"] for _ in seed_taste],
        ),
        matches=_table(
            MATCHES,
            user_id=[f"u{n}" for n in range(users)],
            rank=[1] * users,
            seed_user_id=[f"u{rng.choice(np.flatnonzero(seed_taste == t))}" for t in taste[:matched]] + [None] * 2,
            similarity=[float(s) for s in rng.uniform(0.5, 1, size=matched)] + [None] * 2,
        ),
        users=_users(users, histories),
        histories=histories.rename({"last": "last_interacted_at"}).select(USER_HISTORIES.names),
        items=_table(
            ITEMS,
            item_id=item_ids,
            title=[f"Film {n}" for n in range(items)],
            brand=[None if n % 3 else "Studio" for n in range(items)],
            categories=[
                [] if n == 0 else [str(g) for g in rng.choice(GENRES, size=1 + n % 2, replace=False)]
                for n in range(items)
            ],
            description=[None] * items,
            interaction_count=pl.DataFrame({"item_id": item_ids})
            .join(counts, on="item_id", how="left", maintain_order="left")["interaction_count"]
            .fill_null(0),
        ),
        interactions=interactions.select(INTERACTIONS.names),
        holdout=pl.DataFrame(held).select(HOLDOUT.names),
        embeddings=embeddings,
    )


def write_project(folder: Path, toy: Toy, run_id: str = "run-1") -> Path:
    """Write marts, one published run, the Feast repository and `.reland/current.json`."""
    marts = folder / ".reland" / "marts"
    marts.mkdir(parents=True, exist_ok=True)
    for name in ("users", "items", "interactions", "holdout"):
        getattr(toy, name).write_parquet(marts / f"{name}.parquet")
    toy.histories.write_parquet(marts / "user_histories.parquet")
    publish(toy.features(), folder / "features", run_id)
    ignored = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(REPOSITORY, folder / "feature_repo", ignore=ignored)
    current = {
        "marts": str(marts),
        "as_of": AS_OF.isoformat(),
        "features_run": run_id,
        "pool_version": "pool-1",
        "pool_made_with": MADE_WITH,
    }
    (folder / ".reland" / "current.json").write_text(json.dumps(current))
    return folder


def _event(user: int, item: str, at: datetime, **more: object) -> dict[str, object]:
    return {"user_id": f"u{user}", "item_id": item, "interacted_at": at, **more}


def _users(users: int, histories: pl.DataFrame) -> pl.DataFrame:
    frame = pl.DataFrame({"user_id": [f"u{n}" for n in range(users)]}).join(
        histories.select("user_id", "interaction_count", last_interacted_at="last"),
        on="user_id",
        how="left",
        maintain_order="left",
    )
    count = pl.col("interaction_count")
    above = pl.sum_horizontal(*(count > count.quantile(q, "linear") for q in (0.25, 0.5, 0.75)))
    level = pl.format("L{}", pl.when(count.is_not_null()).then(above + 1))
    return frame.with_columns(
        profile=pl.lit(None, pl.String),
        activity_level=level,
        first_interacted_at=pl.col("last_interacted_at"),
        interaction_count=pl.col("interaction_count").fill_null(0),
    ).select(USERS.names)


def _table(table: object, **columns: object) -> pl.DataFrame:
    schema = table.polars_schema()  # type: ignore[attr-defined]
    return pl.DataFrame(
        {
            name: pl.Series(name, np.asarray(values, np.float32)).cast(schema[name])
            if isinstance(values, np.ndarray) and values.ndim == 2
            else pl.Series(name, values, dtype=schema[name])
            for name, values in columns.items()
        }
    ).select(schema.names())


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
