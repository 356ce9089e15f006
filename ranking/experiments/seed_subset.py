"""Keep some of a pool's seed users and match everyone again, Eq. (3): a smaller budget without another LLM call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ranking.compact_views import read_view, vectors
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.splits import Split
from reland_features.artifacts import MANIFEST
from reland_features.columns import SEED_RATIONALE
from reland_features.errors import ArtifactError
from reland_features.feature_store import open_store

_BLOCK = 4096


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
    """Return the rationales of users who are matched among the first seeds only.

    Parameters
    ----------
    fraction : float
        Of the pool's seeds, above 0.

    Returns
    -------
    Rationales
        k = 1; a user without a behaviour vector has none.
    """
    folder = PoolFolder.of(project)
    seeds = folder.seeds(fraction)
    pool = pl.read_parquet(folder.path / "reasoning_pool.parquet", columns=["seed_user_id", "vector"])
    pool = pl.DataFrame({"seed_user_id": seeds}).join(pool, on="seed_user_id", how="left", maintain_order="left")
    behavior = pl.read_parquet(folder.input("behavior_vectors") / "behavior_vectors.parquet")
    users = pl.DataFrame({"user_id": split.user_ids}).with_row_index("row").join(behavior, on="user_id", how="inner")
    queries, keys = _unit(users["vector"]), _unit(pool["vector"])
    rows = np.full((split.n_users, 1), -1, dtype=np.int64)
    at = users["row"].to_numpy()
    for start in range(0, len(at), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows[at[block], 0] = (queries[block] @ keys.T).argmax(axis=1)
    store, view = open_store(project.repository), SEED_RATIONALE.name
    texts = read_view(store, view, "seed_user_id", seeds, ["rationale_embedding"], project.as_of)
    embeddings, _ = vectors(texts["rationale_embedding"], f"{view}:rationale_embedding")
    return Rationales(embeddings, rows, (rows >= 0).astype(np.float32))


def _unit(lists: pl.Series) -> np.ndarray:
    values = np.array(lists.to_list(), dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
