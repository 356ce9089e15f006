"""Explain one user's features: history → seed → rationale."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from reland_features.columns import USER_MATCH_DETAIL
from reland_features.curation import Curation, mark
from reland_features.errors import FeatureStoreError, TableError
from reland_features.project import Project


@dataclass(frozen=True)
class Explanation:
    """What stands behind a user's published rationale; seed fields are None where there is no match.

    `seed_weights` has what each of several seeds counts in the fused embedding (`match.top_k` above 1), the best
    first; the other seed fields are those of the best one.
    """

    user_id: str
    as_of: str
    pool_version: str
    interaction_count: int
    history: tuple[str, ...]
    seed_user_id: str | None
    similarity: float | None
    seed_history: tuple[str, ...]
    summary: str | None
    categories: tuple[str, ...]
    items: tuple[str, ...]
    seed_weights: tuple[tuple[str, float], ...] = ()
    is_cold_start: bool = False  # matched by profile, not by behaviour
    curated: str | None = None  # who changed the rationale, and when; None where the LLM's words are served

    def as_dict(self) -> dict[str, Any]:
        """Return the explanation as a mapping."""
        return asdict(self)

    def text(self) -> str:
        """Return the explanation for a terminal."""
        lines = [
            f"user {self.user_id}: {self.interaction_count} interactions up to {self.as_of}",
            *(f"  - {title}" for title in self.history),
        ]
        if self.seed_user_id is None:
            why = "the user has no behaviour in the window"
            if self.history:
                why = "the pool's encoder knows none of these items, and not the user"
            return "\n".join([*lines, f"no match: {why}, so no rationale is served"])
        how = "of the behaviour that the profile predicts" if self.is_cold_start else "Eq. 3"
        others = ", ".join(f"{seed} {weight:.2f}" for seed, weight in self.seed_weights[1:])
        return "\n".join(
            [
                *lines,
                f"most similar seed: {self.seed_user_id} (cosine {self.similarity:.3f}, {how})",
                *([f"its weight is {self.seed_weights[0][1]:.2f}; other seeds: {others}"] if others else []),
                *(f"  - {title}" for title in self.seed_history),
                f"rationale of pool {self.pool_version}" + (f", {self.curated}" if self.curated else ""),
                f"  why:        {self.summary}",
                *(
                    (f"  categories: {', '.join(self.categories)}", f"  items:      {'; '.join(self.items)}")
                    if self.items
                    else ("  (Step 1 only: the text recommends nothing that the catalogue knows)",)
                ),
            ]
        )


def explain(project: Project, user_id: str, last: int = 10) -> Explanation:
    """Read a user's published features and the tables they came from.

    Parameters
    ----------
    last : int
        How many items of each history are shown, newest last.

    Raises
    ------
    FeatureStoreError
        Nothing is published yet, or what was is deleted.
    TableError
        The user is not in the published table.
    """
    current = project.current()
    marts, pool = project.root / current["marts"], project.root / current["pool"]
    published = project.features / "user_rationale" / f"{current['features_run']}.parquet"
    for path in (marts, pool, published):
        if not path.exists():
            raise FeatureStoreError(
                "what was published last is no longer all there", where=str(path), hint="reland run"
            )
    return read_explanations(marts, pool, published, [user_id], last)[0]


def read_explanations(marts: Path, pool: Path, published: Path, user_ids: list[str], last: int) -> list[Explanation]:
    """Explain several users from the tables of one run."""
    rows = pl.scan_parquet(published).filter(pl.col("user_id").is_in(user_ids)).collect()
    found = {row["user_id"]: row for row in rows.iter_rows(named=True)}
    if missing := [user for user in user_ids if user not in found]:
        example = pl.scan_parquet(published).select("user_id").head(3).collect()["user_id"].to_list()
        raise TableError(
            "no features are published for this user",
            where=str(published),
            got=missing[0],
            expected=f"a user_id of the users or interactions table, such as {', '.join(example)}",
        )
    seeds = {row["seed_user_id"] for row in found.values()} - {None}
    wanted = [*found, *seeds]
    titles = dict(pl.read_parquet(marts / "items.parquet", columns=["item_id", "title"]).iter_rows())
    histories = {
        user: tuple(titles[item] for item in items[-last:])
        for user, items in pl.scan_parquet(marts / "user_histories.parquet")
        .filter(pl.col("user_id").is_in(wanted))
        .select("user_id", "item_ids")
        .collect()
        .iter_rows()
    }
    counts = dict(
        pl.scan_parquet(marts / "users.parquet")
        .filter(pl.col("user_id").is_in(user_ids))
        .select("user_id", "interaction_count")
        .collect()
        .iter_rows()
    )
    rationales = {
        row["seed_user_id"]: row
        for row in pl.scan_parquet(pool / "reasoning_pool.parquet")
        .filter(pl.col("seed_user_id").is_in(list(seeds)))
        .select("seed_user_id", "summary", "categories", "items")
        .collect()
        .iter_rows(named=True)
    }
    details = _details(published, user_ids)
    replaced = Curation.read(pool).replaced
    explanations = []
    for user in user_ids:
        row = found[user]
        rationale = rationales.get(row["seed_user_id"], {})
        seed_weights, is_cold_start = details.get(user, ((), False))
        explanations.append(
            Explanation(
                user_id=user,
                as_of=row["event_timestamp"].isoformat(),
                pool_version=row["pool_version"],
                interaction_count=counts.get(user, 0),
                history=histories.get(user, ()),
                seed_user_id=row["seed_user_id"],
                similarity=row["similarity"],
                seed_history=histories.get(row["seed_user_id"], ()),
                summary=rationale.get("summary"),
                categories=tuple(rationale.get("categories") or ()),
                items=tuple(rationale.get("items") or ()),
                seed_weights=seed_weights,
                is_cold_start=is_cold_start,
                curated=mark(replaced[row["seed_user_id"]]) if row["seed_user_id"] in replaced else None,
            )
        )
    return explanations


def _details(published: Path, user_ids: list[str]) -> dict[str, tuple[tuple[tuple[str, float], ...], bool]]:
    """Map users to their weighted seeds and whether a profile matched them; empty where a run has no such table."""
    file = published.parent.parent / USER_MATCH_DETAIL.name / published.name
    if not file.is_file():
        return {}
    rows = pl.scan_parquet(file).filter(pl.col("user_id").is_in(user_ids))
    chosen = rows.select("user_id", "seed_user_ids", "seed_weights", "is_cold_start").collect()
    return {
        user: (tuple(zip(seeds, weights, strict=True)), is_cold) for user, seeds, weights, is_cold in chosen.iter_rows()
    }
