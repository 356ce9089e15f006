"""Find what a ranker needs in a project folder: marts, feature run, Feast repository, models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reland_features.config import CONFIG_FILE, Evaluation, load
from reland_features.errors import FeatureStoreError


@dataclass(frozen=True)
class RankingProject:
    """A project folder whose features are published.

    `pool_made_with` are the ids of encoder, text encoder and embedded step: pools in which these are equal have
    similarities and rationale embeddings in common. It is None where an older version of the package published.
    """

    root: Path
    marts: Path
    repository: Path
    as_of: datetime
    features_run: str
    pool_version: str
    pool_made_with: Mapping[str, str] | None
    evaluation: Evaluation
    seed: int

    @classmethod
    def open(cls, root: Path) -> RankingProject:
        """Read `.reland/current.json`, which `reland run` writes, and `reland.toml` where there is one.

        Raises
        ------
        FeatureStoreError
            Nothing is published in this folder.
        """
        root = root.resolve()
        path = root / ".reland" / "current.json"
        if not path.is_file():
            raise FeatureStoreError("this project has published no features yet", where=str(root), hint="reland run")
        current = json.loads(path.read_text())
        config = load(root) if (root / CONFIG_FILE).is_file() else None
        return cls(
            root=root,
            marts=root / current["marts"],
            repository=root / (config.feast.repository if config else "feature_repo"),
            as_of=datetime.fromisoformat(current["as_of"]),
            features_run=current["features_run"],
            pool_version=current["pool_version"],
            pool_made_with=current.get("pool_made_with"),
            evaluation=config.evaluation if config else Evaluation.model_validate({}),
            seed=config.seed if config else 0,
        )

    @property
    def models(self) -> Path:
        """Where trained rankers are kept."""
        return self.root / "models"

    def sample_size(self, asked: int | None) -> int | None:
        """Return how many users to sample, as asked or else `evaluation.max_users`; None, everyone, for 0."""
        return (self.evaluation.max_users if asked is None else asked) or None

    def mart(self, name: str) -> Path:
        """Return the path of one mart."""
        return self.marts / f"{name}.parquet"
