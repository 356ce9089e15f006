"""Keep some of a pool's seed users and match everyone again, Eq. (3): a smaller budget without another LLM call."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from ranking.experiments.published_match import PublishedMatch
from ranking.features import nearest_rationales, pool_and_vectors
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.splits import Split
from reland_features.artifacts import MANIFEST
from reland_features.errors import ArtifactError


@dataclass(frozen=True)
class PoolFolder:
    """The pool that a project's published features were made from, and what it was made from itself."""

    path: Path

    @classmethod
    def of(cls, project: RankingProject) -> PoolFolder:
        """Find it in `.reland/current.json`.

        Raises
        ------
        ArtifactError
            The project names no pool, or its folder is gone.
        """
        current = json.loads((project.root / ".reland" / "current.json").read_text())
        path = project.root / current.get("pool", "")
        if not current.get("pool") or not (path / MANIFEST).is_file():
            raise ArtifactError(
                "the reasoning pool of this project is not there", where=str(project.root), hint="reland run"
            )
        return cls(path)

    def manifest(self) -> dict[str, Any]:
        """Return what the pool's manifest says."""
        return json.loads((self.path / MANIFEST).read_text())

    def facts(self) -> dict[str, Any]:
        """Return what a page says of the pool: `version`, number of `seeds`, `written_by`, what is `embedded`."""
        said = self.manifest()
        names = {"version": "pool_version", "seeds": "rows_out", "written_by": "engine_id", "embedded": "embedded"}
        return {name: said[key] for name, key in names.items()}

    def input(self, kind: str) -> Path:
        """Return the folder of one of its inputs; raise `ArtifactError` where there is none."""
        found = [name for name in self.manifest()["inputs"] if name.startswith(f"{kind}-")]
        path = self.path.parents[1] / kind / found[0] if found else None
        if path is None or not (path / MANIFEST).is_file():
            raise ArtifactError(
                f"the pool's {kind} are not there",
                where=str(self.path),
                expected=f"a {kind} artifact among its inputs",
                hint="reland run",
            )
        return path

    def seeds(self, fraction: float = 1.0) -> pl.Series:
        """Return the first seeds in the order drawn: a sample for a smaller budget (section 3.1.1)."""
        drawn = pl.read_parquet(self.input("seed_users") / "seed_users.parquet", columns=["user_id"])["user_id"]
        held = pl.read_parquet(self.path / "reasoning_pool.parquet", columns=["seed_user_id"])["seed_user_id"]
        kept = drawn.filter(drawn.is_in(held.implode()))
        return kept.head(max(1, round(fraction * len(kept))))

    def tokens(self, seeds: pl.Series) -> int:
        """Return the prompt and completion tokens that these seeds' rationales took."""
        answers = pl.read_parquet(self.input("rationales") / "rationales.parquet")
        return int(
            answers.filter(pl.col("seed_user_id").is_in(seeds.implode()))
            .select(pl.sum_horizontal("prompt_tokens", "completion_tokens").sum())
            .item()
        )


def subset_rationales(project: RankingProject, split: Split, fraction: float) -> Rationales:
    """Return the rationales of users who are matched among the first seeds only, as the published match was made.

    Parameters
    ----------
    fraction : float
        Of the pool's seeds, above 0; with all of them everybody has what is published.

    Returns
    -------
    Rationales
        The table's rows are in the order in which the seeds were drawn. A user without a behaviour vector has none,
        unless the published match knows a vector from the profile.

    Raises
    ------
    ArtifactError
        A folder that the features were made from is gone.
    FeaturesError
        Nobody has a rationale, or Feast joins another pool than the project's.
    """
    kept = PoolFolder.of(project).seeds(fraction)
    pool, behavior = pool_and_vectors(project)
    fewer = replace(pool, frame=pool.frame.filter(pl.col("seed_user_id").is_in(kept.implode())))
    match = PublishedMatch.of(project)
    behavior = match.vectors(project, behavior, kept)
    return nearest_rationales(project, split, fewer, behavior, k=match.top_k, temperature=match.temperature, order=kept)
