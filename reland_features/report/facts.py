"""What the report is made from: plain values, collected by the pipeline, so that a report can be written anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

MAX_POINTS = 5_000


@dataclass(frozen=True)
class TableCount:
    """Rows of a source table before and after preparation."""

    name: str
    rows_in: int
    rows_out: int


@dataclass(frozen=True)
class StageTiming:
    """One stage: its rows, its seconds, and whether it was `cached`, i.e. unchanged and taken as it was."""

    name: str
    rows_in: int
    rows_out: int
    seconds: float
    cached: bool = False


@dataclass(frozen=True, eq=False)
class Projection:
    """Behaviour vectors on a plane.

    Parameters
    ----------
    points : numpy.ndarray
        A sample of users, float [n, 2].
    clusters : numpy.ndarray
        K-means cluster of each, int [n].
    seeds : numpy.ndarray
        The seed users, float [s, 2].
    seed_clusters : numpy.ndarray
        Cluster of each seed, int [s].
    drawn_by : sequence of str
        ``representative`` or ``important``, [s].
    explained : tuple of float
        Share of the vectors' variance that each axis keeps.
    users : int
        Number of users the sample was taken from.
    """

    points: np.ndarray
    clusters: np.ndarray
    seeds: np.ndarray
    seed_clusters: np.ndarray
    drawn_by: Sequence[str]
    explained: tuple[float, float]
    users: int

    @classmethod
    def of(
        cls, vectors: np.ndarray, clusters: np.ndarray, seed_rows: np.ndarray, drawn_by: Sequence[str], seed: int = 0
    ) -> Projection:
        """Project unit-length behaviour vectors by PCA; at most `MAX_POINTS` users are kept.

        Parameters
        ----------
        vectors : numpy.ndarray
            float32 [U, d], d at least 2.
        clusters : numpy.ndarray
            int [U].
        seed_rows : numpy.ndarray
            Rows of `vectors` that are seeds, int [s], in the order of `drawn_by`.
        seed : int
            Of the sample.
        """
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(seed)
        kept = np.sort(rng.permutation(len(vectors))[:MAX_POINTS])
        # Matching compares directions (Eq. 3), so lengths are taken out before projecting.
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        with np.errstate(invalid="ignore"):  # users who all behave alike have no variance to share out
            pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(unit[kept])
        first, second = (float(share) for share in np.nan_to_num(pca.explained_variance_ratio_))
        return cls(
            points=pca.transform(unit[kept]),
            clusters=clusters[kept],
            seeds=pca.transform(unit[seed_rows]),
            seed_clusters=clusters[seed_rows],
            drawn_by=tuple(drawn_by),
            explained=(first, second),
            users=len(vectors),
        )


@dataclass(frozen=True)
class Predicted:
    """One amount as the last dry run predicted it for all calls of these requests, and as it came."""

    name: str
    predicted: float
    taken: float

    @property
    def difference(self) -> str:
        """Return how far off the prediction was: ``+3.1 %`` where the run took more."""
        return f"{self.taken / self.predicted - 1:+.1%}" if self.predicted else "not predicted"


@dataclass(frozen=True)
class LlmUsage:
    """What the LLM was asked and what it took.

    Parameters
    ----------
    calls : int
        Calls made by this run.
    cached : int
        Answers taken from the ledger instead of being asked for again.
    prompt_tokens, completion_tokens : int
        Of all answers in use, from this run or the ledger.
    cost : float, optional
        Of the same answers, in `currency`; None where no price is configured.
    failed, invalid : int
        Seeds without an answer, and with an answer that cannot be used.
    seeds, users : int
        How many the LLM reasoned about, and how many it would have been without retrieval.
    predicted : sequence of Predicted
        Empty where no dry run was made for these rationales.
    """

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    failed: int
    invalid: int
    seeds: int
    users: int
    cost: float | None = None
    currency: str = "USD"
    predicted: Sequence[Predicted] = ()

    @property
    def ratio(self) -> float:
        """How many users one call serves: users / seeds."""
        return self.users / self.seeds if self.seeds else 0.0


@dataclass(frozen=True)
class Coverage:
    """Users of one activity level, and how many of them have a match."""

    level: str
    users: int
    matched: int


@dataclass(frozen=True)
class Example:
    """One user, the seed that was found and the rationale that comes with it.

    `history` has titles, oldest first; `seed_user_id` is None where the user has no match; `curated` says who
    changed the rationale, and when.
    """

    user_id: str
    history: tuple[str, ...]
    seed_user_id: str | None = None
    similarity: float | None = None
    summary: str = ""
    categories: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    curated: str = ""


@dataclass(frozen=True, eq=False)
class ReportFacts:
    """Everything the report shows.

    Parameters
    ----------
    project : str
        Name of the project.
    as_of : datetime
        The last instant of behaviour that was used (UTC).
    versions : mapping of str to str
        Identity of encoder, engine, prompt, text encoder, pool; shown in this order.
    similarities : array of float
        Cosine of every matched user to its best seed.
    ranking : mapping or sequence, optional
        What `ranking.evaluate` wrote: ``{"protocol", "rankers": [{"name", metric: value}], "differences": [{
        "ranker", "against", "role", "metric", "level", "value", "low", "high"}]}``, or only the list of rankers.
    ranking_absent : str
        Why `ranking` is None.
    quality : sequence of tuple of str
        The pool's measures that need no ranker, rows of `quality.tables.report_row`.
    decisions : sequence of str
        What people decided about single rationales of this pool.
    warnings : sequence of str
        What the reader has to know before believing the rest.
    """

    project: str
    as_of: datetime
    versions: Mapping[str, str]
    tables: Sequence[TableCount]
    stages: Sequence[StageTiming]
    usage: LlmUsage
    similarities: Sequence[float] | np.ndarray
    coverage: Sequence[Coverage]
    examples: Sequence[Example] = ()
    projection: Projection | None = None
    ranking: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ranking_absent: str = "no evaluation command is configured (evaluation.command)"
    quality: Sequence[tuple[str, ...]] = ()
    decisions: Sequence[str] = ()
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def users(self) -> int:
        """All users, with or without behaviour."""
        return sum(level.users for level in self.coverage)

    @property
    def matched(self) -> int:
        """Users that inherit a rationale."""
        return sum(level.matched for level in self.coverage)
