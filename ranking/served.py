"""Rankers as the app serves them: a user id and candidates in, scores out, features from the online store only.

What no Feast view holds, a user's profile and last items, is read from the project's marts when the app starts,
as of the same run as the features. A user that the store does not know has no rationale, no history and the
unknown row of every field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from ranking.project import RankingProject
from ranking.seed_lists import seed_lists, shares
from ranking.services import EXPLANATION_SERVICE, SEED_SERVICE, check_services
from ranking.tabular import BASELINE_SERVICE, online_frame
from ranking.train import Ranker, load
from ranking.trained_facts import required
from reland_features.columns import SEED_RATIONALE
from reland_features.errors import FeatureStoreError
from reland_features.feast import open_store
from reland_features.publishing import published_run

if TYPE_CHECKING:
    from feast import FeatureStore

KNOWN_USER = "user_activity__interaction_count"
_KNOWN_ITEM = "item_attributes__interaction_count"
_SEED_POOL, _EMBEDDING = "seed_rationale__pool_version", "seed_rationale__rationale_embedding"
_OF_A_RATIONALE = ("user_rationale__", "rationale_item_cross__")
_BATCH = 1_000


@dataclass(frozen=True)
class Scored:
    """The answer for one user.

    Parameters
    ----------
    scores : numpy.ndarray
        float32, one per candidate; empty where some candidate is unknown.
    is_known_user : bool
        Whether the online store has the user.
    unknown : list of str
        Candidates that cannot be scored.
    why : str
        What these have in common.
    """

    scores: np.ndarray
    is_known_user: bool
    unknown: list[str]
    why: str = "have no features"


class ServedRanker(Protocol):
    """A trained ranker over an online store."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Say what was trained: model, service, features_run, pool_version and as_of."""

    def reads(self, pool_version: str | None) -> bool:
        """Say whether rationales of a pool enter the scores; of another one, published since, they may be masked."""

    def score(self, user_id: str, candidates: Sequence[str]) -> Scored:
        """Score candidates for one user."""


@dataclass(frozen=True)
class OnlineFeatures:
    """The online store, read by feature service."""

    store: FeatureStore

    @classmethod
    def of(cls, project: RankingProject) -> OnlineFeatures:
        """Open a project's repository."""
        return cls(open_store(project.repository))

    def read(self, service: str, key: str, ids: Sequence[str], **more: str) -> pl.DataFrame:
        """Return the features of a service, one row an id; `more` are join keys that all rows share.

        Raises
        ------
        FeatureStoreError
            The store is not there or cannot be read; each kind of store has its own errors for that.
        """
        rows = [{key: each, **more} for each in ids]
        try:
            definition = self.store.get_feature_service(service, allow_cache=True)
            answer = self.store.get_online_features(features=definition, entity_rows=rows, full_feature_names=True)
        except Exception as error:
            raise FeatureStoreError(
                "the online store cannot be read",
                where=f"{self.store.repo_path}, {service}",
                got=f"{type(error).__name__}: {error}",
                hint="reland publish",
            ) from error
        return online_frame(answer.to_dict())

    def explain(self, user_id: str) -> dict[str, Any]:
        """Read why: summary, seed, similarity and pool version, None where there is no rationale."""
        row = self.read(EXPLANATION_SERVICE, "user_id", [user_id]).row(0, named=True)
        return {name.removeprefix("user_rationale__"): value for name, value in row.items()}


class SeedRationales:
    """The pool's rationale embeddings, read from the online store once: the compact layout's second half.

    Parameters
    ----------
    online : OnlineFeatures
        Where they are.
    project : RankingProject
        Its published run names the seeds. `pool_version` is its pool.

    Raises
    ------
    FeatureStoreError
        The repository does not define the services that are read, or leaves seeds out, or the online store holds
        seeds of another pool.
    """

    def __init__(self, online: OnlineFeatures, project: RankingProject) -> None:
        check_services(online.store, project)
        self._online, self.pool_version = online, project.pool_version
        run = published_run(project.root / "features", project.features_run)
        seeds = pl.read_parquet(run.paths[SEED_RATIONALE.name], columns=["seed_user_id"])["seed_user_id"]
        self.frame = pl.concat(
            [self._read(seeds[n : n + _BATCH].to_list()) for n in range(0, len(seeds), _BATCH)], how="vertical_relaxed"
        )
        has = self.frame[_EMBEDDING].cast(pl.List(pl.Float32)).list.len().fill_null(0) > 0
        pools = self.frame[_SEED_POOL].cast(pl.String).drop_nulls().unique()
        if other := sorted(set(pools) - {self.pool_version}):  # as between publishing a run and materializing it
            raise FeatureStoreError(
                "the online store holds the rationales of another pool than the published one",
                where=str(project.repository),
                got=", ".join(other),
                expected=self.pool_version,
                hint="wait for the end of reland run, or feast materialize, and start again",
            )
        keys = zip(self.frame.select("seed_user_id", _SEED_POOL).iter_rows(), has, strict=True)
        self._rows = {key: row for row, (key, is_there) in enumerate(keys) if is_there}

    def of(self, user: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of the seeds that a user (one row of `USER_SERVICE`) is matched to, or none.

        A match of another pool than the one at the start, published since, is none: its seeds are not known here.
        """
        return self.frame[self.mixture(user)[0]]

    def mixture(self, user: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as row numbers of `frame`, int64 [k], and what each counts, float32 [k] summing to 1."""
        ids, weights, pool = seed_lists(user).row(0)
        rows = np.array([self._rows.get((seed, pool), -1) for seed in ids], dtype=np.int64)[None]
        counts = shares(rows, np.array(weights, dtype=np.float32)[None])
        return rows[rows >= 0], counts[rows >= 0]

    def _read(self, seeds: list[str]) -> pl.DataFrame:
        frame = self._online.read(SEED_SERVICE, "seed_user_id", seeds)
        return frame.with_columns(seed_user_id=pl.Series(seeds, dtype=pl.String))


@dataclass(frozen=True)
class MartUsers:
    """Profile and last items of every user, kept in memory: as many items as the mart holds, `data.max_history`."""

    _profiles: dict[str, str | None]
    _histories: dict[str, list[str]]

    @classmethod
    def of(cls, project: RankingProject) -> MartUsers:
        """Read the marts `users` and `user_histories`."""
        users = pl.read_parquet(project.mart("users"), columns=["user_id", "profile"])
        histories = pl.read_parquet(project.mart("user_histories"), columns=["user_id", "item_ids"])
        return cls(dict(users.iter_rows()), dict(histories.iter_rows()))

    def history(self, user_id: str) -> list[str]:
        """Return a user's last items, oldest first; none for a stranger."""
        return self._histories.get(user_id, [])

    def columns(self, user_id: str) -> pl.DataFrame:
        """Return one row: profile and history, as `ranking.ctr_features.with_mart_features` adds them."""
        return pl.DataFrame(
            {"profile": [self._profiles.get(user_id)], "history": [self.history(user_id)]},
            schema={"profile": pl.String, "history": pl.List(pl.String)},
        )


@dataclass(frozen=True)
class ServedTabular:
    """The XGBoost ranker; candidates need published features."""

    ranker: Ranker
    online: OnlineFeatures
    pool_version: str

    @classmethod
    def of(cls, project: RankingProject) -> ServedTabular:
        """Load the project's current model."""
        return cls(load(project.models, required(project)), OnlineFeatures.of(project), project.pool_version)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Say what was trained."""
        return self.ranker.facts

    def reads(self, pool_version: str | None) -> bool:
        """Say whether rationales of a pool enter the scores: of the one that was published at the start."""
        return pool_version == self.pool_version

    def score(self, user_id: str, candidates: Sequence[str]) -> Scored:
        """Score candidates for one user.

        A rationale of another pool than at the start, published since, is masked: nobody looked what it is made with.
        """
        frame = self.online.read(self.ranker.features.service, "item_id", candidates, user_id=user_id)
        has_rationales = self.ranker.features.service != BASELINE_SERVICE
        if has_rationales and not self.reads(self.online.explain(user_id)["pool_version"]):
            masked = [name for name in frame.columns if name.startswith(_OF_A_RATIONALE)]
            frame = frame.with_columns(pl.lit(None, frame.schema[name]).alias(name) for name in masked)
        unknown = without_features(frame, candidates)
        known = frame[KNOWN_USER][0] is not None
        return Scored(np.empty(0) if unknown else self.ranker.score(frame), known, unknown)


def without_features(frame: pl.DataFrame, candidates: Sequence[str]) -> list[str]:
    """Return the candidates that the online store does not know."""
    return [item for item, count in zip(candidates, frame[_KNOWN_ITEM], strict=True) if count is None]
