"""How far users have moved since their pool was made, and the tables from it: when to make a new one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from reland_features.artifacts import Artifact
from reland_features.columns import MATCHES


@dataclass(frozen=True)
class Drift:
    """What has changed from the day of the pool to that of the features.

    Parameters
    ----------
    pool_as_of, as_of : datetime
        Of the behaviour that the pool was made from, and of the features (UTC).
    users, matched : int
        Users of the tables, and those of them with a seed.
    newly_matched : int
        Users with a seed now who had none then: new ones, and those who did nothing that the pool's tables have.
    compared, kept : int
        Users matched then and now, and those of them who inherit from the same seed.
    similarity, similarity_then : float or None
        Means over the users matched now and then; None where there are none.
    events, events_with_new_items : int
        Interactions since then, and those of them with an item that the pool's tables did not have.
    """

    pool_as_of: datetime
    as_of: datetime
    users: int
    matched: int
    newly_matched: int
    compared: int
    kept: int
    similarity: float | None
    similarity_then: float | None
    events: int
    events_with_new_items: int

    @classmethod
    def between(cls, fitted: Artifact, then: Artifact | None, encoded: Artifact, now: Artifact) -> Drift:
        """Compare the matches of two days.

        Parameters
        ----------
        fitted, encoded : Artifact
            Behaviour vectors of the pool, and of the later day.
        then, now : Artifact
            Matches made with them; without the first nobody is compared.
        """
        was, found = _best(then), _best(now)
        both = found.join(was, on="user_id", how="inner", suffix="_then").drop_nulls()
        return cls(
            pool_as_of=datetime.fromisoformat(fitted.manifest["as_of"]),
            as_of=datetime.fromisoformat(encoded.manifest["as_of"]),
            users=found.height,
            matched=found["seed_user_id"].count(),
            newly_matched=found["seed_user_id"].count() - both.height,
            compared=both.height,
            kept=both.filter(pl.col("seed_user_id") == pl.col("seed_user_id_then")).height,
            similarity=_mean(found),
            similarity_then=_mean(was),
            # on the pool's own tables nothing was encoded again
            events=encoded.manifest.get("events_since", 0),
            events_with_new_items=encoded.manifest.get("events_with_new_items", 0),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self) | {"pool_as_of": self.pool_as_of.isoformat(), "as_of": self.as_of.isoformat()}

    def text(self) -> str:
        """Return what a person wants to know, on four lines."""
        then = f", {self.similarity_then:.3f} then" if self.similarity_then is not None else ""
        cosine = f"; mean cosine {self.similarity:.3f}{then}" if self.similarity is not None else ""
        share = f"{self.kept / self.compared:.1%} of {self.compared:,}" if self.compared else "none"
        new = self.events_with_new_items / max(self.events, 1)
        return "\n".join(
            [
                f"behaviour up to {self.as_of}, matched to a pool of behaviour up to {self.pool_as_of}; since then:",
                f"  {self.matched:,} of {self.users:,} users have a rationale, {self.newly_matched:,} newly{cosine}",
                f"  {share} who had one then inherit from the same seed",
                f"  {new:.1%} of {self.events:,} interactions are with items that the pool's encoder does not know",
            ]
        )


def _best(matches: Artifact | None) -> pl.DataFrame:
    columns = ["user_id", "seed_user_id", "similarity"]
    if matches is None:
        return pl.DataFrame(schema={name: MATCHES.polars_schema()[name] for name in columns})
    return pl.scan_parquet(matches.table("matches")).filter(pl.col("rank") == 1).select(columns).collect()


def _mean(matches: pl.DataFrame) -> float | None:
    found = matches["similarity"].drop_nulls().mean()
    return float(found) if isinstance(found, float) else None
