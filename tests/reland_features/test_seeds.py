from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from reland_features.columns import SEED_USERS, USER_CLUSTERS
from reland_features.config import Seeds
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ConfigError, TableError
from reland_features.seeds import (
    allocate,
    cluster_count,
    draw_important,
    draw_representative,
    importance,
    sample_seeds,
    seed_budget,
)


def vectors_of(values: np.ndarray) -> BehaviorVectors:
    ids = pl.Series([f"u{row:04d}" for row in range(len(values))])
    return BehaviorVectors(ids, np.asarray(values, dtype=np.float32), "toy", datetime(2024, 1, 1))


def blobs(n_users: int = 400, seed: int = 0) -> BehaviorVectors:
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(8, 6)) * 4
    return vectors_of(centers[generator.integers(0, 8, n_users)] + generator.normal(size=(n_users, 6)))


def draw(vectors: BehaviorVectors, budget: int, clusters="auto", seed: int = 0, counts=None):
    counts = np.arange(1, len(vectors.user_ids) + 1) if counts is None else counts
    return sample_seeds(vectors, counts, budget=budget, clusters=clusters, generator=np.random.default_rng(seed))


def test_seats_follow_cluster_sizes_by_the_largest_remainder() -> None:
    # 10 seats of 70, 21, 9 users are 7.0, 2.1, 0.9: the last seat goes to .9
    assert allocate([70, 21, 9], 10).tolist() == [7, 2, 1]
    # 4 seats of 5, 5, 5 are 1.33 each: equal remainders, the first gets the last seat
    assert allocate([5, 5, 5], 4).tolist() == [2, 1, 1]
    assert allocate([97, 1, 1, 1], 4).tolist() == [4, 0, 0, 0]
    assert allocate([3, 0, 2], 5).tolist() == [3, 0, 2]
    assert allocate([0, 0], 5).tolist() == [0, 0]


def test_one_seat_goes_to_the_unchosen_user_nearest_to_the_center() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    distances = np.array([0.3, 0.1, 0.2, 0.5, 0.6, 0.4])
    sizes = np.array([3, 3])
    everyone = np.ones(6, dtype=bool)
    generator = np.random.default_rng(0)
    assert draw_representative(labels, distances, sizes, everyone, 2, generator).tolist() == [1, 5]
    assert draw_representative(labels, distances, sizes, ~np.isin(np.arange(6), [1, 5]), 2, generator).tolist() == [
        2,
        3,
    ]


def test_several_seats_are_drawn_uniformly_among_unchosen_users() -> None:
    labels, sizes = np.zeros(5, dtype=int), np.array([5])
    available = np.array([True, True, True, True, False])
    generator = np.random.default_rng(0)
    times = np.zeros(5)
    for _ in range(3000):
        drawn = draw_representative(labels, np.arange(5.0), sizes, available, 2, generator)
        assert len(set(drawn.tolist())) == 2
        times[drawn] += 1
    np.testing.assert_allclose(times / 3000, [0.5, 0.5, 0.5, 0.5, 0], atol=0.04)


def test_an_exhausted_cluster_leaves_its_seats_to_the_others() -> None:
    labels, sizes = np.array([0, 0, 0, 0, 1]), np.array([4, 1])
    only_last = np.array([False] * 4 + [True])
    assert draw_representative(labels, np.zeros(5), sizes, only_last, 2, np.random.default_rng(0)).tolist() == [4]


def test_importance_is_the_share_of_interactions() -> None:
    np.testing.assert_array_equal(importance([1, 2, 5]), [1 / 8, 2 / 8, 5 / 8])


def test_bernoulli_passes_draw_with_the_probabilities_of_equation_2() -> None:
    # Passes are repeated until one draws somebody: P(u is in it) = p_u / (1 - prod (1 - p_v)).
    p = importance([1, 2, 5, 8])
    expected = p / (1 - np.prod(1 - p))
    generator = np.random.default_rng(0)
    times = np.zeros(4)
    for _ in range(20_000):
        times[draw_important(p, np.ones(4, dtype=bool), 1, 4, generator)] += 1
    np.testing.assert_allclose(times / 20_000, expected, atol=0.012)


def test_bernoulli_passes_equal_passes_run_one_by_one() -> None:
    p, quota, runs = importance([1, 3, 6, 10, 20]), 2, 12_000
    generator = np.random.default_rng(1)
    slow, fast = np.zeros(5), np.zeros(5)
    for _ in range(runs):
        chosen = np.zeros(5, dtype=bool)
        while chosen.sum() < quota:
            chosen |= generator.random(5) < p
        slow += chosen
        fast[draw_important(p, np.ones(5, dtype=bool), quota, 5, generator)] += 1
    np.testing.assert_allclose(fast / runs, slow / runs, atol=0.025)


def test_bernoulli_passes_skip_chosen_users_and_those_without_interactions_and_stop_at_the_limit() -> None:
    p = importance([5, 5, 5, 0, 5])
    available = np.array([False, True, True, True, True])
    generator = np.random.default_rng(0)
    for _ in range(200):
        assert set(draw_important(p, available, 3, 3, generator).tolist()) == {1, 2, 4}
        assert len(draw_important(p, available, 2, 2, generator)) == 2
    assert len(draw_important(p, available, 0, 5, generator)) == 0
    assert len(draw_important(p, np.array([False, False, False, True, False]), 1, 5, generator)) == 0


@pytest.mark.parametrize("budget", [1, 7, 40, 399, 400])
@pytest.mark.parametrize("clusters", ["auto", 1, 50, 400])
def test_the_budget_is_met_exactly_without_repeats(budget, clusters) -> None:
    sample = draw(blobs(), budget, clusters)
    assert sample.seeds.height == sample.seeds["user_id"].n_unique() == budget
    assert sample.seeds.schema == SEED_USERS.polars_schema()
    assert sample.user_clusters.schema == USER_CLUSTERS.polars_schema()


def test_the_two_strategies_alternate_and_share_the_seeds() -> None:
    sample = draw(blobs(), 80, 10)
    runs = sample.seeds["drawn_by"].rle().struct.unnest()
    assert runs["value"].to_list()[:4] == ["representative", "important"] * 2
    assert runs["len"].to_list()[0] == 10
    shares = sample.seeds["drawn_by"].value_counts()
    assert shares["count"].min() >= 25


def test_active_users_are_drawn_more_often_by_importance() -> None:
    counts = np.where(np.arange(400) < 40, 100, 1)
    seeds = draw(blobs(), 60, 10, counts=counts).seeds
    important = seeds.filter(drawn_by="important")["user_id"]
    assert (important < "u0040").mean() > 0.6


def test_clusters_are_those_of_unit_vectors_and_centers_their_means() -> None:
    vectors = blobs()
    sample = draw(vectors, 40, 8)
    unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    labels = sample.user_clusters["cluster_id"].to_numpy()
    assert sample.user_clusters["user_id"].to_list() == vectors.user_ids.to_list()
    assert sample.centers.dtype == np.float32
    for cluster in range(8):
        np.testing.assert_allclose(sample.centers[cluster], unit[labels == cluster].mean(axis=0), atol=1e-5)
    distances = np.linalg.norm(unit[:, None] - sample.centers[None], axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), labels)


def test_length_of_vectors_does_not_matter() -> None:
    vectors = blobs()
    scales = np.random.default_rng(1).uniform(0.5, 20, size=(400, 1)).astype(np.float32)
    scaled = vectors_of(vectors.vectors * scales)
    assert draw(vectors, 40, 8).seeds.equals(draw(scaled, 40, 8).seeds)


def test_the_same_generator_seed_gives_the_same_sample() -> None:
    first, second, other = draw(blobs(), 40, seed=1), draw(blobs(), 40, seed=1), draw(blobs(), 40, seed=2)
    assert first.seeds.equals(second.seeds)
    assert first.user_clusters.equals(second.user_clusters)
    assert not first.seeds.equals(other.seeds)


def test_counts_may_be_a_mapping() -> None:
    vectors = blobs()
    mapping = {user: row + 1 for row, user in reversed(list(enumerate(vectors.user_ids)))}
    assert draw(vectors, 40, counts=mapping).seeds.equals(draw(vectors, 40).seeds)


def test_budget_and_cluster_defaults() -> None:
    assert seed_budget(Seeds(fraction=0.1), 6040) == 604
    assert seed_budget(Seeds(fraction=0.001), 30) == 1
    assert seed_budget(Seeds(fraction=0.1, count=17), 6040) == 17
    assert cluster_count("auto", 6040, 604) == 78
    assert cluster_count("auto", 6040, 20) == 20
    assert cluster_count(302, 6040, 20) == 302


@pytest.mark.parametrize(
    ("budget", "clusters", "what"),
    [(31, "auto", "budget"), (0, "auto", "budget"), (10, 31, "fewer users than clusters")],
)
def test_what_does_not_fit_is_said(budget, clusters, what) -> None:
    with pytest.raises(ConfigError, match=what) as error:
        draw(blobs(30), budget, clusters)
    assert "30" in error.value.got
    assert error.value.hint.startswith("--set seeds.")


@pytest.mark.parametrize("counts", [np.ones(29), np.zeros(30), -np.ones(30), {"u0000": 3}, np.full(30, np.nan)])
def test_counts_that_are_no_counts_are_refused(counts) -> None:
    with pytest.raises(TableError, match="count"):
        draw(blobs(30), 5, counts=counts)


def test_large_bases_are_clustered_in_mini_batches(monkeypatch) -> None:
    monkeypatch.setattr("reland_features.seeds._MINI_BATCH_FROM", 100)
    sample, again = draw(blobs(), 40, 8), draw(blobs(), 40, 8)
    assert sample.seeds.equals(again.seeds)
    assert sample.seeds["user_id"].n_unique() == 40
    # the eight blobs are found: users of a cluster point the same way
    vectors = blobs().vectors
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    inertia = np.linalg.norm(unit - sample.centers[sample.user_clusters["cluster_id"].to_numpy()], axis=1)
    assert inertia.mean() < np.linalg.norm(unit - unit.mean(axis=0), axis=1).mean() / 2


def test_random_seeds_are_one_uniform_draw() -> None:
    vectors = blobs(30)
    among = [f"u{n:04}" for n in range(0, 30, 2)]
    drawn = np.zeros(30)
    for seed in range(200):
        sample = sample_seeds(
            vectors,
            np.arange(1, 31),  # the adaptive sampler would prefer the last
            budget=5,
            clusters=4,
            generator=np.random.default_rng(seed),
            among=among,
            sampler="random",
        )
        assert sample.seeds["drawn_by"].to_list() == ["random"] * 5
        assert sample.seeds["user_id"].n_unique() == 5
        drawn[[int(user[1:]) for user in sample.seeds["user_id"]]] += 1
    assert drawn[1::2].sum() == 0
    # 1,000 draws over 15 users: 67 each, give or take three standard deviations of 7
    assert (abs(drawn[::2] - 1000 / 15) < 24).all()
