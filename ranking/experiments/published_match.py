"""How users were matched for the published features, so that a part of the pool can be matched in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ranking.project import RankingProject
from reland_features.artifacts import Artifact, ArtifactStore
from reland_features.cold_start import with_cold_users
from reland_features.config import ColdStart, Match
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ArtifactError


@dataclass(frozen=True)
class PublishedMatch:
    """What a run was matched with, from its manifests: `reland.toml` may have been changed since.

    Parameters
    ----------
    top_k : int
        Seeds per user.
    temperature : float
        Of the softmax over their similarities.
    cold_start : ColdStart, optional
        How users without behaviour got a vector; None where they did not.
    profile : tuple of str
        The columns that their profiles are made of.
    """

    top_k: int
    temperature: float
    cold_start: ColdStart | None
    profile: tuple[str, ...]

    @classmethod
    def of(cls, project: RankingProject) -> PublishedMatch:
        """Read it; raise `ArtifactError` where the folder of the features or of their matches is gone."""
        features = features_artifact(project)
        store = ArtifactStore(features.path.parents[1])
        found = [made for name in features.manifest["inputs"] if (made := store.find("matches", name))]
        if not found:
            raise ArtifactError(
                "the matches of the published features are not there",
                where=str(store.root / "matches"),
                expected=f"a matches artifact among the inputs of {features.id}",
                hint="reland run",
            )
        # Manifests leave out what is as by default.
        matched = found[0].manifest["config"]
        given = {"top_k": matched, "temperature": features.manifest["config"]}
        settings = Match.model_validate({name: config[name] for name, config in given.items() if name in config})
        cold_start = ColdStart.model_validate(matched["cold_start"]) if "cold_start" in matched else None
        return cls(settings.top_k, settings.temperature, cold_start, tuple(matched.get("profile", ())))

    def vectors(self, project: RankingProject, behavior: BehaviorVectors, seeds: pl.Series) -> BehaviorVectors:
        """Return the users' vectors; of who is none of these seeds, a predicted one where the run predicted any."""
        if self.cold_start is None:
            return behavior
        users = pl.read_parquet(project.mart("users"), columns=["user_id", "profile", "interaction_count"])
        return with_cold_users(behavior, users, self.profile, self.cold_start, seeds=seeds, seed=project.seed).vectors


def features_artifact(project: RankingProject) -> Artifact:
    """Return the artifact of the published features; raise `ArtifactError` where its folder is gone."""
    store = ArtifactStore(project.root / ".reland" / "artifacts")
    features = store.find("features", project.features_run)
    if features is None:
        raise ArtifactError(
            "the folder of the published feature run is not there",
            where=str(store.root / "features"),
            expected=project.features_run,
            hint="reland run",
        )
    return features
