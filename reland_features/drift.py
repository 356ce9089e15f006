"""How far users have moved since the features before, and the tables from the pool: when to make a new one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from reland_features.columns import USER_SEED_MATCH


@dataclass(frozen=True)
class Drift:
    """What a refresh changed.

    Parameters
    ----------
    pool_as_of, as_of : datetime
        Of the behaviour that the pool was made from, and of the features (UTC).
    users, matched : int
        With features now, and those of them with a seed.
    new_users : int
        Who had none before.
    compared, kept : int
        Users matched before and now, and those of them who inherit from the same seed.
    similarity, similarity_before : float or None
        Means over the users matched now and before; None where there are none.
    events, events_with_new_items : int
        Interactions now, and those of them with an item that the pool's tables did not have.
    """

    pool_as_of: datetime
    as_of: datetime
    users: int
    matched: int
    new_users: int
    compared: int
    kept: int
    similarity: float | None
    similarity_before: float | None
    events: int
    events_with_new_items: int

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self) | {"pool_as_of": self.pool_as_of.isoformat(), "as_of": self.as_of.isoformat()}

    def text(self) -> str:
        """Return what a person wants to know, on four lines."""
        before = f", {self.similarity_before:.3f} before" if self.similarity_before is not None else ""
        cosine = f"; mean cosine {self.similarity:.3f}{before}" if self.similarity is not None else ""
        share = f"{self.kept / self.compared:.1%} of {self.compared:,}" if self.compared else "none"
        new = self.events_with_new_items / max(self.events, 1)
        return "\n".join(
            [
                f"{self.matched:,} of {self.users:,} users have a rationale, {self.new_users:,} users are new{cosine}",
                f"{share} who had one inherit from the same seed as before",
                f"the pool knows behaviour up to {self.pool_as_of}, the features up to {self.as_of}",
                f"{new:.1%} of the interactions are with items that the pool's encoder does not know",
            ]
        )


def drift(
    features: Path, before: str, after: str, *, pool_as_of: datetime, as_of: datetime, events: int, new_items: int
) -> Drift:
    """Compare two published runs, by their run ids; where the files of the first are gone, it had no users."""
    earlier, later = (_matches(features, run) for run in (before, after))
    both = later.join(earlier, on="user_id", how="inner", suffix="_before").drop_nulls()
    return Drift(
        pool_as_of=pool_as_of,
        as_of=as_of,
        users=later.height,
        matched=later["seed_user_id"].count(),
        new_users=later.join(earlier, on="user_id", how="anti").height,
        compared=both.height,
        kept=both.filter(pl.col("seed_user_id") == pl.col("seed_user_id_before")).height,
        similarity=_mean(later),
        similarity_before=_mean(earlier),
        events=events,
        events_with_new_items=new_items,
    )


def _matches(features: Path, run: str) -> pl.DataFrame:
    columns = ("user_id", "seed_user_id", "similarity")
    path = features / USER_SEED_MATCH.name / f"{run}.parquet"
    if not path.is_file():
        schema = USER_SEED_MATCH.polars_schema()
        return pl.DataFrame(schema={name: schema[name] for name in columns})
    return pl.read_parquet(path, columns=list(columns))


def _mean(matches: pl.DataFrame) -> float | None:
    found = matches["similarity"].drop_nulls().mean()
    return float(found) if isinstance(found, float) else None
