"""Choose the users the LLM reasons about: adaptive seed user sampling, section 3.1.1 of the paper.

Representativeness-aware and importance-aware sampling alternate until the budget is met.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from reland_features.columns import SEED_USERS, USER_CLUSTERS
from reland_features.config import Seeds
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ConfigError, TableError

REPRESENTATIVE = "representative"
RANDOM = "random"
IMPORTANT = "important"
_MINI_BATCH_FROM = 100_000


@dataclass(frozen=True)
class SeedSample:
    """Seed users and the clusters they were drawn from.

    Parameters
    ----------
    seeds : polars.DataFrame
        `columns.SEED_USERS`, in the order drawn: the first n rows are a sample for a smaller budget.
    user_clusters : polars.DataFrame
        `columns.USER_CLUSTERS`, every user, in the order of the behaviour vectors.
    centers : numpy.ndarray
        float32 [K, d], K-means centres of the unit-length vectors.
    """

    seeds: pl.DataFrame
    user_clusters: pl.DataFrame
    centers: np.ndarray


def seed_budget(seeds: Seeds, n_users: int) -> int:
    """Return how many seed users to draw: `count`, or the rounded `fraction` of the users, at least 1."""
    return seeds.count if seeds.count is not None else max(1, round(seeds.fraction * n_users))


def cluster_count(clusters: int | Literal["auto"], n_users: int, budget: int) -> int:
    """Return K: the number given, or for `auto` the square root of the users, between 1 and the budget."""
    return min(max(round(n_users**0.5), 1), budget) if clusters == "auto" else clusters


def importance(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p_u = |D_u| / sum |D_u|, the Bernoulli probabilities of Eq. (2), float64 [U]."""
    values = np.asarray(counts, dtype=np.float64)
    shares: npt.NDArray[np.float64] = values / values.sum()
    return shares


def allocate(sizes: npt.ArrayLike, seats: int) -> npt.NDArray[np.int64]:
    """Divide seats in proportion to cluster sizes by the largest remainder; ties go to the first.

    Parameters
    ----------
    sizes : array of int [K]
        |C_k|; clusters of size 0 get nothing.

    Returns
    -------
    numpy.ndarray
        N_k, int64 [K], sums to `seats` unless all sizes are 0.
    """
    whole = np.asarray(sizes, dtype=np.int64)
    if whole.sum() == 0:
        return np.zeros(len(whole), dtype=np.int64)
    # integers, so that equal remainders are equal
    quotas, remainders = np.divmod(whole * seats, whole.sum())
    rest = seats - int(quotas.sum())
    quotas[np.argsort(-remainders, kind="stable")[:rest]] += 1
    return quotas


def sample_seeds(
    vectors: BehaviorVectors,
    counts: Mapping[str, int] | npt.ArrayLike,
    *,
    budget: int,
    clusters: int | Literal["auto"],
    generator: np.random.Generator,
    among: Collection[str] | None = None,
    sampler: Literal["adaptive", "random"] = "adaptive",
    clustering: UserClustering | None = None,
) -> SeedSample:
    """Draw exactly `budget` seed users by alternating the two strategies of section 3.1.1.

    Clusters are K-means (scikit-learn; mini-batches from 100,000 users) on unit-length vectors, since
    users are matched by cosine, Eq. (3). Every round draws

    1. K seats (or what is left), N_k in proportion to |C_k| among clusters that have unchosen users.
       Where N_k = 1 it is the unchosen user nearest to the centre, otherwise N_k at random.
    2. as many new users or more by repeated Bernoulli draws of Eq. (2).

    Parameters
    ----------
    vectors : BehaviorVectors
        M of Eq. (1).
    counts : mapping from user id, or array of int [U] in the order of `vectors`
        |D_u|.
    budget : int
        |S|.
    clusters : int or "auto"
        K, see `cluster_count`.
    generator : numpy.random.Generator
        Every draw comes from it.
    among : collection of str, optional
        Draw these users only. Clusters, their sizes and p_u stay those of all users, whom the seeds are to
        represent; a cluster's nearest user to the centre is the nearest that may be drawn.
    sampler : {"adaptive", "random"}
        The alternation, or one uniform draw: the ablation "w/o a.s." of Figure 5.
    clustering : UserClustering, optional
        Of the same vectors, for a caller that draws several samples; the sample is the same with it.

    Raises
    ------
    ConfigError
        The budget exceeds the number of users (that may be drawn), or K does.
    TableError
        There is no count for a user, or a count is below 0 or all are 0.
    """
    n_users = len(vectors.user_ids)
    may_draw = np.ones(n_users, dtype=bool) if among is None else vectors.user_ids.is_in(list(among)).to_numpy()
    drawable = int(may_draw.sum())
    if not 1 <= budget <= drawable:
        raise ConfigError(
            "the budget of seed users does not fit the number of users",
            where="seeds.count or seeds.fraction",
            got=f"{budget} seeds of {drawable} users with behaviour" + (" and a text" if among is not None else ""),
            expected=f"1 to {drawable}",
            hint="--set seeds.fraction=0.1" if among is None else f"--set seeds.count={drawable}, or import more texts",
        )
    k = cluster_count(clusters, n_users, budget)
    if k > n_users:
        raise ConfigError(
            "there are fewer users than clusters",
            where="seeds.clusters",
            got=f"{n_users} users, {k} clusters",
            expected=f"at most {n_users} clusters",
            hint="--set seeds.clusters=auto",
        )
    probabilities = importance(_aligned(counts, vectors.user_ids))
    cluster = clustering or UserClustering(vectors.vectors)
    labels, distances, centers = cluster(k, int(generator.integers(2**32)))
    sizes = np.bincount(labels, minlength=k)
    chosen = ~may_draw
    rows: list[np.ndarray] = []
    drawn_by: list[str] = []
    if sampler == RANDOM:
        rows.append(generator.choice(np.flatnonzero(may_draw), size=budget, replace=False))
        drawn_by += [RANDOM] * budget
    while (left := budget - len(drawn_by)) > 0:
        new = draw_representative(labels, distances, sizes, ~chosen, min(k, left), generator)
        chosen[new] = True
        rows.append(new)
        drawn_by += [REPRESENTATIVE] * len(new)
        new = draw_important(probabilities, ~chosen, len(new), left - len(new), generator)
        chosen[new] = True
        rows.append(new)
        drawn_by += [IMPORTANT] * len(new)
    order = np.concatenate(rows)
    user_clusters = pl.DataFrame(
        {"user_id": vectors.user_ids, "cluster_id": labels}, schema=USER_CLUSTERS.polars_schema()
    )
    seeds = user_clusters[order].with_columns(pl.Series("drawn_by", drawn_by, dtype=pl.String))
    return SeedSample(seeds.select(SEED_USERS.names), user_clusters, centers)


def draw_representative(
    labels: np.ndarray,
    distances: np.ndarray,
    sizes: np.ndarray,
    available: np.ndarray,
    seats: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Draw at most `seats` available users, cluster by cluster, for S_R.

    A cluster that has fewer available users than N_k gives all of them. At least one user is drawn
    when any is available, because the seats go to clusters that have some.

    Parameters
    ----------
    labels, distances : numpy.ndarray
        Cluster of each user, int [U], and its distance to that cluster's centre, float [U].
    sizes : numpy.ndarray
        |C_k|, int [K], chosen users included.
    available : numpy.ndarray
        bool [U], users not chosen yet.
    """
    rows = np.flatnonzero(available)
    # by cluster, then nearest to the centre first, then row
    rows = rows[np.lexsort((rows, distances[rows], labels[rows]))]
    starts = np.searchsorted(labels[rows], np.arange(len(sizes) + 1))
    seats_of = allocate(np.where(np.diff(starts) > 0, sizes, 0), seats)
    drawn = []
    for cluster in np.flatnonzero(seats_of):
        members = rows[starts[cluster] : starts[cluster + 1]]
        count = int(seats_of[cluster])
        drawn.append(members[:1] if count == 1 else generator.choice(members, min(count, len(members)), replace=False))
    return np.concatenate(drawn) if drawn else np.zeros(0, dtype=np.int64)


def draw_important(
    probabilities: np.ndarray, available: np.ndarray, quota: int, limit: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Repeat the Bernoulli draws of Eq. (2) until `quota` new users are drawn; return at most `limit`.

    One pass over all users draws each with its p_u, one user in expectation. The pass in which a user
    is drawn first is geometric with parameter p_u and independent of the others, so all passes are
    simulated at once, exactly: the passes up to the one that meets the quota are kept whole, and only
    what exceeds `limit` is left out, at random within the last pass.

    Returns
    -------
    numpy.ndarray
        int64 user rows in the order of the passes; fewer than `quota` only if no other user has p > 0.
    """
    rows = np.flatnonzero(available & (probabilities > 0))
    quota = min(quota, limit, len(rows))
    if quota <= 0:
        return np.zeros(0, dtype=np.int64)
    passes = generator.geometric(probabilities[rows])
    last = np.partition(passes, quota - 1)[quota - 1]
    order = np.lexsort((generator.random(len(rows)), passes))
    return rows[order[: min(int((passes <= last).sum()), limit)]]


def _aligned(counts: Mapping[str, int] | npt.ArrayLike, user_ids: pl.Series) -> np.ndarray:
    if isinstance(counts, Mapping):
        missing = [user for user in user_ids if user not in counts]
        if missing:
            raise TableError(
                "users with a behaviour vector have no interaction count",
                where="seeds",
                got=f"{len(missing)} users, the first {missing[0]!r}",
                expected="a count for every user",
            )
        counts = [counts[user] for user in user_ids]
    values = np.asarray(counts, dtype=np.float64)
    if values.shape != (len(user_ids),) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise TableError(
            "interaction counts cannot be used as probabilities (Eq. 2)",
            where="seeds",
            got=f"shape {values.shape}, minimum {values.min(initial=0)}, sum {values.sum()}",
            expected=f"{len(user_ids)} counts, none below 0, one above 0",
        )
    return values


class UserClustering:
    """K-means of unit-length vectors; what was computed for the same K and random state is not computed again.

    Parameters
    ----------
    vectors : numpy.ndarray
        float32 [U, d], no zero row.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self._made: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(self, k: int, state: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels int32 [U], distances to the own centre float32 [U] and centres float32 [K, d]."""
        if (k, state) not in self._made:
            self._made[k, state] = self._fit(k, state)
        return self._made[k, state]

    def _fit(self, k: int, state: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from sklearn.cluster import KMeans, MiniBatchKMeans

        unit = self._unit
        if len(unit) >= _MINI_BATCH_FROM:
            model = MiniBatchKMeans(k, random_state=state, n_init=3, batch_size=max(4096, 4 * k), compute_labels=False)
        else:
            model = KMeans(k, random_state=state, n_init="auto")
        model.fit(unit)
        centers = model.cluster_centers_.astype(np.float32)
        labels = model.predict(unit).astype(np.int32)
        distances = np.linalg.norm(unit - centers[labels], axis=1)
        return labels, distances, centers
