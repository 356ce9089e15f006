"""Collaborative backbones and the floors: sampling, hooks, and forward passes computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from ranking.backbones import build
from ranking.backbones.base import NoSides
from ranking.fitting import FitSettings, evaluate, fit
from reland_features.errors import ConfigError

from .conftest import make_split

NAMES = ["lightgcn", "ngcf", "neumf"]
# Users 0..2 and items 0..5 of the toy: 0 - {0, 1, 2}, 1 - {1, 3}, 2 - {4}
EDGES = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 4)]


def small(name):
    return {"dimension": 4, **({"widths": (6, 5)} if name == "neumf" else {"widths": (3, 2)} if name == "ngcf" else {})}


@pytest.fixture
def adjacency(toy):
    """D^-1/2 A D^-1/2 of the toy's training part, users first; item 5 has no edge."""
    matrix = np.zeros((9, 9))
    for user, item in EDGES:
        matrix[user, 3 + item] = matrix[3 + item, user] = 1
    degree = np.maximum(matrix.sum(1), 1)
    return matrix / np.sqrt(degree[:, None] * degree)


def weights(backbone):
    return {name: value.detach().numpy().astype(np.float64) for name, value in backbone.state_dict().items()}


def test_the_toy_is_what_the_other_tests_take_it_for(toy):
    assert list(zip(*(rows.tolist() for rows in toy.training_pairs()), strict=True)) == EDGES


def test_lightgcn_by_hand(toy, adjacency):
    backbone = build("lightgcn", toy, {**small("lightgcn"), "layers": 2}).eval()
    w = weights(backbone)
    zero = np.concatenate([w["users.weight"], w["items.weight"]])
    expected = (zero + adjacency @ zero + adjacency @ adjacency @ zero) / 3
    users, items = backbone.representations("test")
    assert torch.cat([users, items]).detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_ngcf_by_hand(toy, adjacency):
    backbone = build("ngcf", toy, small("ngcf")).eval()
    w = weights(backbone)
    layer = np.concatenate([w["users.weight"], w["items.weight"]])
    outputs = [layer]
    for n in range(2):
        neighbours = adjacency @ layer
        sums = (neighbours + layer) @ w[f"sums.{n}.weight"].T + w[f"sums.{n}.bias"]
        products = (neighbours * layer) @ w[f"products.{n}.weight"].T + w[f"products.{n}.bias"]
        layer = np.where(sums + products > 0, sums + products, 0.2 * (sums + products))
        outputs.append(layer)
    expected = np.concatenate(
        [outputs[0], *(o / np.linalg.norm(o, axis=1, keepdims=True) for o in outputs[1:])], axis=1
    )
    users, items = backbone.representations("test")
    assert torch.cat([users, items]).detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_neumf_by_hand_and_factored(toy):
    backbone = build("neumf", toy, small("neumf"), seed=2).eval()
    for parameter in backbone.parameters():  # the initial weights are so small that all scores would agree
        nn.init.normal_(parameter)
    w = weights(backbone)
    expected = np.empty((3, 6))
    for user in range(3):
        for item in range(6):
            hidden = np.concatenate([w["users.1.weight"][user], w["items.1.weight"][item]])
            for n in range(2):
                hidden = np.maximum(w[f"layers.{n}.weight"] @ hidden + w[f"layers.{n}.bias"], 0)
            product = w["users.0.weight"][user] * w["items.0.weight"][item]
            expected[user, item] = np.concatenate([product, hidden]) @ w["predict.weight"][0] + w["predict.bias"][0]
    direct = backbone(torch.arange(3).repeat_interleave(6), torch.arange(6).repeat(3)).detach().view(3, 6)
    assert direct.numpy() == pytest.approx(expected, abs=1e-4)
    with torch.inference_mode():
        assert backbone.scorer("test")(torch.tensor([2, 0])).numpy() == pytest.approx(expected[[2, 0]], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_interaction_is_a_positive_once_and_negatives_are_uniform_over_the_others(name, random_split):
    backbone = build(name, random_split, {**small(name), "batch_size": 32})
    taken = set(zip(*(rows.tolist() for rows in random_split.training_pairs()), strict=True))
    drawn = np.zeros(random_split.n_items)
    wrong = total = 0
    generator = np.random.default_rng(0)
    for _ in range(40):
        positives = []
        for users, items, negatives in backbone.batches(generator):
            positives += zip(users.tolist(), items.tolist(), strict=True)
            pairs = list(zip(users.tolist(), negatives.tolist(), strict=True))
            wrong += sum(pair in taken for pair in pairs)
            total += len(pairs)
            drawn += np.bincount(negatives.numpy(), minlength=random_split.n_items)
        assert sorted(positives) == sorted(taken)
    assert wrong < 0.3 * total  # drawn twice at most: users here have up to three quarters of the items
    free = {user: [i for i in range(random_split.n_items) if (user, i) not in taken] for user in range(30)}
    never = [item for item in range(random_split.n_items) if not drawn[item]]
    assert not never
    assert all(free.values())


@pytest.mark.parametrize("name", NAMES)
def test_features_come_in_on_both_sides_and_at_the_output(name, toy):
    class Users(nn.Module):
        def forward(self, vectors, rows):
            return vectors + rows[:, None]

    class Items(nn.Module):
        def forward(self, table):
            return table * 3

    class Output(nn.Module):
        def users(self, vectors, rows):
            return torch.cat([vectors, rows[:, None].float()], dim=1)

        def items(self, vectors):
            return torch.cat([vectors, torch.full((len(vectors), 1), 10.0)], dim=1)

    class Sides(NoSides):
        def users(self, dimension):
            return Users()

        def items(self, dimension):
            return Items()

        def output(self, dimension):
            return Output()

    sided, plain = build(name, toy, small(name), sides=Sides()).eval(), build(name, toy, small(name)).eval()
    with torch.no_grad():
        plain.load_state_dict(sided.state_dict())
        tables = ([plain.users, plain.items],) if name != "neumf" else zip(plain.users, plain.items, strict=True)
        for users, items in tables:
            users.weight += torch.arange(3)[:, None]
            items.weight *= 3
        rows = torch.arange(3)
        expected = plain.scorer("test")(rows) + 10 * rows[:, None]
        torch.testing.assert_close(sided.scorer("test")(rows), expected)
        if name == "neumf":
            torch.testing.assert_close(sided(rows, rows), expected[rows, rows])
    sided.train()
    for batch in sided.batches(np.random.default_rng(0)):
        assert torch.isfinite(sided.loss(batch))


@pytest.mark.parametrize("name", NAMES)
def test_two_camps_are_told_apart_and_seeds_repeat(name):
    camps = {}
    for n in range(40):
        items = np.random.default_rng(n).permutation(12)[:9] + 12 * (n % 2)
        camps[f"u{n:02}"] = items.tolist()
    split = make_split(camps)
    options = {**small(name), "dimension": 8, "batch_size": 64}
    runs = []
    for _ in range(2):
        backbone = build(name, split, options, seed=1)
        fit(backbone, FitSettings(learning_rate=2e-2, max_epochs=30, patience=30), seed=1)
        runs.append(evaluate(backbone, "test").means())
    assert runs[0] == runs[1]
    assert runs[0]["hr@10_masked"] > 0.9  # the 5 items of the camp that are left come before the 12 others


def test_popularity_counts_training_interactions(toy):
    scores = build("popularity", toy).scorer("test")(torch.tensor([2, 0]))
    assert scores.tolist() == [[1, 2, 1, 1, 1, 0]] * 2


@pytest.mark.parametrize("neighbours", [3, 100])
def test_item_knn_by_double_loop(neighbours, random_split):
    backbone = build("itemknn", random_split, {"neighbours": neighbours})
    users, items = random_split.training_pairs()
    taken = np.zeros((random_split.n_users, random_split.n_items))
    taken[users, items] = 1
    count = random_split.n_items
    cosine = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i != j and taken[:, i].any() and taken[:, j].any():
                cosine[i, j] = taken[:, i] @ taken[:, j] / np.sqrt(taken[:, i].sum() * taken[:, j].sum())
    for part in ("validation", "test"):
        history = np.zeros_like(taken)
        history[random_split.seen(part)] = 1
        scores = backbone.scorer(part)(torch.arange(random_split.n_users)).numpy()
        if neighbours == 100:
            assert scores == pytest.approx(history @ cosine, abs=1e-5)
        else:
            assert (np.count_nonzero(backbone._similar.toarray(), axis=1) <= 3).all()
            best = np.sort(cosine, axis=1)[:, -3:].sum(1)
            found = np.asarray(backbone._similar.sum(axis=1)).ravel()
            assert found == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("name", ["popularity", "itemknn"])
def test_floors_are_measured_without_training(name, random_split):
    backbone = build(name, random_split)
    done = fit(backbone, FitSettings())
    assert done.epochs == 0
    assert done.best == evaluate(backbone, "validation").means()


def test_wrong_names_and_options_say_what_there_is(toy):
    with pytest.raises(ConfigError, match="lightgcn"):
        build("lightgcm", toy)
    with pytest.raises(ConfigError, match="these options"):
        build("lightgcn", toy, {"layer": 3})
