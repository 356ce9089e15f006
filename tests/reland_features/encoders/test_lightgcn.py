from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
import torch

from reland_features.encoders import validate
from reland_features.encoders.lightgcn import LightGCN, adjacency, bpr_loss, propagate
from reland_features.errors import ConfigError, TableError
from reland_features.interactions import empty_interactions

# u0: i0, i1   u1: i1, i2.  Degrees: u 2, 2; i 1, 2, 1.
USERS, ITEMS = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
R2 = 1 / math.sqrt(2)


def test_adjacency_is_symmetrically_normalised() -> None:
    dense = adjacency(USERS, ITEMS, 2, 3).to_dense()
    expected = torch.zeros(5, 5)
    for row, column, value in [(0, 2, R2), (0, 3, 0.5), (1, 3, 0.5), (1, 4, R2)]:
        expected[row, column] = expected[column, row] = value
    torch.testing.assert_close(dense, expected)


def test_a_repeated_interaction_is_one_edge() -> None:
    once = adjacency(USERS, ITEMS, 2, 3).to_dense()
    twice = adjacency(np.append(USERS, 0), np.append(ITEMS, 1), 2, 3).to_dense()
    torch.testing.assert_close(once, twice)


def test_forward_pass_and_bpr_loss_by_hand() -> None:
    initial = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    # one layer: A E, then (E + A E) / 2
    # A E of u0: .7071 (2, 0) + .5 (0, 2) = (1.4142, 1); of u1: .5 (0, 2) + .7071 (2, 2) = (1.4142, 2.4142)
    # of i0: .7071 (1, 0); of i1: .5 (1, 0) + .5 (0, 1) = (.5, .5); of i2: .7071 (0, 1)
    final = propagate(initial, adjacency(USERS, ITEMS, 2, 3), 1)
    expected = [[1.2071068, 0.5], [0.7071068, 1.7071068], [1.3535534, 0.0], [0.25, 1.25], [1.0, 1.3535534]]
    torch.testing.assert_close(final, torch.tensor(expected))

    # u0 prefers i0 (row 2) to i2 (row 4): 1.2071 * 1.3536 - (1.2071 + .5 * 1.3536) = -.2500
    # squares of the initial rows: 1 + 4 + 8 = 13
    loss = bpr_loss(final, initial, torch.tensor([0]), torch.tensor([2]), torch.tensor([4]), 0.1)
    margin = 1.2071068 * 1.3535534 - (1.2071068 + 0.5 * 1.3535534)
    assert margin == pytest.approx(-0.25, abs=1e-6)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.25)) + 0.5 * 0.1 * 13, abs=1e-5)


def test_two_layers_equal_the_mean_of_powers_and_so_does_their_gradient() -> None:
    graph = adjacency(USERS, ITEMS, 2, 3)
    dense = graph.to_dense()
    embeddings = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reference = (embeddings + dense @ embeddings + dense @ dense @ embeddings) / 3
    weights = torch.arange(20.0).reshape(5, 4)
    (expected,) = torch.autograd.grad((reference * weights).sum(), embeddings)
    result = propagate(embeddings, graph, 2)
    (gradient,) = torch.autograd.grad((result * weights).sum(), embeddings)
    torch.testing.assert_close(result, reference)
    torch.testing.assert_close(gradient, expected)


def test_users_of_one_taste_are_neighbours(two_tastes, end) -> None:
    encoder = LightGCN(dimension=16, max_epochs=15)
    vectors = validate(encoder.encode(two_tastes, end))
    unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    assert vectors.user_ids.to_list() == two_tastes.user_ids.to_list()
    assert (nearest % 2 == np.arange(120) % 2).mean() > 0.95
    # 60 items, and only 30 of the user's taste: a random ranking has an NDCG@10 of about .09
    assert encoder.training is not None
    assert encoder.training["ndcg_at_10"] > 0.15


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others(two_tastes, end) -> None:
    options = {"dimension": 8, "max_epochs": 3}
    first, second = (LightGCN(seed=5, **options).encode(two_tastes, end) for _ in range(2))
    other = LightGCN(seed=6, **options)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert not np.allclose(first.vectors, other.encode(two_tastes, end).vectors)
    assert first.encoder_id == second.encoder_id != other.encoder_id


def test_behaviour_after_as_of_is_not_used(two_tastes, end) -> None:
    cut = two_tastes.frame["interacted_at"].min() + timedelta(hours=6)
    encoder = LightGCN(dimension=8, max_epochs=2)
    np.testing.assert_array_equal(
        encoder.encode(two_tastes, cut).vectors, encoder.encode(two_tastes.as_of(cut), end).vectors
    )


def test_a_held_out_interaction_counts_in_the_returned_vectors(two_tastes, end, monkeypatch) -> None:
    from reland_features.encoders import lightgcn

    graphs = []
    monkeypatch.setattr(lightgcn, "adjacency", lambda *arguments: graphs.append(adjacency(*arguments)) or graphs[-1])
    LightGCN(dimension=8, max_epochs=1).encode(two_tastes, end)
    training_graph, full_graph = (graph.values().numel() // 2 for graph in graphs)
    assert full_graph == len(two_tastes)
    assert training_graph == len(two_tastes) - 120


def test_users_with_a_single_interaction_get_a_vector(interactions_from, end) -> None:
    vectors = validate(LightGCN(dimension=4).encode(interactions_from({"a": ["x"], "b": ["y"]}), end))
    assert vectors.user_ids.to_list() == ["a", "b"]


def test_no_behaviour_is_an_error(end) -> None:
    with pytest.raises(TableError, match="no behaviour to encode"):
        LightGCN().encode(empty_interactions(), end)


def test_divergence_names_the_option_to_change(two_tastes, end) -> None:
    with pytest.raises(ConfigError, match="diverged") as error:
        LightGCN(dimension=4, learning_rate=1e30, max_epochs=5).encode(two_tastes, end)
    assert "learning_rate" in error.value.hint


@pytest.mark.parametrize(
    "option", [{"layers": -1}, {"layers": 1.5}, {"batch_size": -1}, {"learning_rate": 0}, {"patience": True}]
)
def test_wrong_options_are_named(option) -> None:
    with pytest.raises(ConfigError) as error:
        LightGCN(**option)
    assert f"encoder.options.{next(iter(option))}" in error.value.where
