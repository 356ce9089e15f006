"""Collaborative backbones and the floors: gradients, hooks, and forward passes computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from ranking.backbones import build
from ranking.backbones.base import NoSides
from ranking.backbones.lightgcn import LightGCN
from ranking.backbones.pairs import Pairs
from ranking.fitting import FitSettings, evaluate, fit
from reland_features.errors import ConfigError

from .conftest import make_split

NAMES = ["lightgcn", "ngcf", "neumf"]
# Users 0..2 and items 0..5 of the toy: 0 - {0, 1, 2}, 1 - {1, 3}, 2 - {4}
EDGES = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 4)]


class Mixed(NoSides):
    """An output side that mixes columns, as the adaptors do."""

    class Output(nn.Module):
        def __init__(self, dimension):
            super().__init__()
            self.mix = nn.Linear(dimension, dimension, bias=False)

        def users(self, vectors, rows):
            return self.mix(vectors)

        def items(self, vectors):
            return 2 * vectors

    def output(self, dimension):
        return self.Output(dimension)


class Tripled(NoSides):
    """Item features that make item embeddings three times as long."""

    class Items(nn.Module):
        def forward(self, vectors, rows=None):
            return 3 * vectors

    def items(self, dimension):
        return self.Items()


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


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_ngcf_trains_as_autograd_would_have_it(dropout, random_split):
    """The layer's hand-written gradient, computed for the rows of the batch, against the equations on whole tables."""
    options = {"dimension": 4, "widths": (8, 6), "dropout": dropout, "regularisation": 0.3}
    backbone = build("ngcf", random_split, options).train()
    batch = Pairs(torch.tensor([3, 3, 7]), torch.tensor([0, 5, 5]), torch.tensor([5, 9, 30]))
    matrix = backbone._graph.to_dense()
    count = random_split.n_users
    needed = torch.unique(torch.cat([batch.users, batch.positives + count, batch.negatives + count]))

    def reference():
        embeddings = torch.cat([backbone.users.weight, backbone.items.weight])
        outputs = [embeddings]
        for n, (added, multiplied) in enumerate(zip(backbone.sums, backbone.products, strict=True)):
            neighbours = matrix @ embeddings
            messages = added(neighbours + embeddings) + multiplied(neighbours * embeddings)
            rows = needed if n == 1 else torch.arange(len(matrix))
            size = len(rows) * messages.shape[1]
            kept = torch.ones(size)
            kept[torch.randint(size, (round(-np.log(1 - dropout) * size),))] = 0
            mask = torch.zeros_like(messages)
            mask[rows] = kept.view(len(rows), -1) / (1 - dropout)
            embeddings = mask * nn.functional.leaky_relu(messages, 0.2)
            outputs.append(nn.functional.normalize(embeddings, dim=1))
        rows = (batch.users, count + batch.positives, count + batch.negatives)
        user, positive, negative = (torch.cat(outputs, dim=1)[row] for row in rows)
        squares = sum(outputs[0][row].square().sum() for row in rows)
        difference = (user * positive).sum(1) - (user * negative).sum(1)
        return -torch.log(torch.sigmoid(difference)).mean() + 0.3 / 2 * squares / 3

    losses, gradients = [], []
    for compute in (lambda: backbone.loss(batch), reference):
        torch.manual_seed(5)
        losses.append(compute())
        gradients.append(torch.autograd.grad(losses[-1], list(backbone.parameters())))
    torch.testing.assert_close(*losses)
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in gradients[1])


def test_ngcf_drops_the_asked_share_of_messages(random_split):
    backbone = build("ngcf", random_split, {"dimension": 4, "widths": (400,), "dropout": 0.3})
    torch.manual_seed(0)
    messages = backbone.train().propagate(torch.randn(random_split.n_users + random_split.n_items, 4))[:, 4:]
    assert (messages == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    messages = backbone.eval().propagate(torch.randn(random_split.n_users + random_split.n_items, 4))[:, 4:]
    assert not (messages == 0).any()


@pytest.mark.parametrize("name", ["lightgcn", "ngcf"])
def test_the_loss_is_bpr_of_the_final_vectors_and_l2_of_what_is_propagated(name, toy):
    for sides, factor in ((None, 1), (Mixed(), 1), (Tripled(), 3)):
        backbone = build(name, toy, {**small(name), "regularisation": 0.2, "batch_size": 6}, sides=sides).eval()
        (batch,) = backbone.batches(np.random.default_rng(0))
        users, items = (vectors.detach().numpy().astype(np.float64) for vectors in backbone.representations("test"))
        w = weights(backbone)
        expected = []
        for user, positive, negative in zip(*(rows.tolist() for rows in batch), strict=True):
            squares = sum(((factor * w["items.weight"][item]) ** 2).sum() for item in (positive, negative))
            squares += (w["users.weight"][user] ** 2).sum()
            expected.append(np.log1p(np.exp(-users[user] @ (items[positive] - items[negative]))) + 0.1 * squares)
        assert backbone.loss(batch).item() == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("name", [*NAMES, "popularity", "itemknn"])
def test_users_and_items_without_training_interactions_are_ranked(name):
    split = make_split({"cold": [7, 8], "u1": [1, 3, 5, 0], "u2": [4, 3, 5, 2]})
    assert split.training[0] == 0
    scores = build(name, split).eval().scorer("validation")(torch.arange(3))
    assert scores.shape == (3, split.n_items)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", NAMES)
def test_training_interactions_alone_are_known_whatever_the_part(name, random_split):
    backbone = build(name, random_split, small(name)).eval()
    rows = torch.arange(random_split.n_users)
    with torch.inference_mode():
        assert torch.equal(backbone.scorer("validation")(rows), backbone.scorer("test")(rows))


@pytest.mark.parametrize("widths", [(16, 12, 8), (12,)])
@pytest.mark.parametrize("mixed", [False, True])
def test_neumf_ranks_all_items_with_the_scores_it_was_trained_on(mixed, widths, random_split, monkeypatch):
    monkeypatch.setattr("ranking.backbones.neumf._ITEMS_PER_BLOCK", random_split.n_items // 3)
    assert random_split.n_items % 3, "the last block is to be a shorter one"
    backbone = build("neumf", random_split, {"widths": widths}, sides=Mixed() if mixed else None).eval()
    for table in (*backbone.users, *backbone.items):
        nn.init.normal_(table.weight, std=0.3)
    users, items = torch.meshgrid(torch.arange(30), torch.arange(random_split.n_items), indexing="ij")
    with torch.inference_mode():
        direct = backbone(users.flatten(), items.flatten()).view(users.shape)
        torch.testing.assert_close(backbone.scorer("test")(torch.arange(30)), direct, atol=1e-5, rtol=0)


def test_neumf_gains_what_the_output_changes_of_a_dot_product(toy):
    backbone, plain = (
        build("neumf", toy, small("neumf"), sides=Mixed()).eval(),
        build("neumf", toy, small("neumf")).eval(),
    )
    plain.load_state_dict(backbone.state_dict(), strict=False)
    user, item = backbone.users[0].weight, backbone.items[0].weight
    mix = backbone.output_side.mix.weight
    rows = torch.arange(3)
    with torch.inference_mode():
        expected = plain.scorer("test")(rows) + (user @ mix.T) @ (2 * item).T - user @ item.T
        torch.testing.assert_close(backbone.scorer("test")(rows), expected)


@pytest.mark.parametrize("name", NAMES)
def test_features_come_in_on_both_sides_and_at_the_output(name, toy):
    class Users(nn.Module):
        def forward(self, vectors, rows):
            return vectors + rows[:, None]

    class Items(nn.Module):
        def forward(self, vectors, rows=None):
            return vectors * 3

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
    with pytest.raises(ConfigError, match="these options") as raised:
        build("duorec", toy, {"sides": None})
    # Its own, and those that it passes on to SASRec and SequentialBackbone.
    assert {"contrasts", "heads", "batch_size"} < set(raised.value.expected.removeprefix("among ").split(", "))


def test_an_option_that_a_class_cannot_do_without_is_asked_for(toy, monkeypatch):
    class Needy(LightGCN):
        def __init__(self, split, *, depth, sides=None, **options):
            super().__init__(split, sides=sides, layers=depth, **options)

    monkeypatch.setattr("ranking.backbones.lightgcn.LightGCN", Needy)
    with pytest.raises(ConfigError, match="not without depth"):
        build("lightgcn", toy)
    assert build("lightgcn", toy, {"depth": 3, "dimension": 4}).layers == 3


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("dimension", "64", "Input should be a valid integer"),
        ("dimension", 64.5, "Input should be a valid integer"),
        ("regularisation", "0.1", "Input should be a valid number"),
        ("layers", True, "Input should be a valid integer"),
    ],
)
def test_an_option_of_another_type_is_named(option, value, expected, toy):
    with pytest.raises(ConfigError, match="wrong type") as raised:
        build("lightgcn", toy, {option: value})
    assert (raised.value.where, raised.value.expected) == (f"lightgcn.{option}", expected)


def test_a_type_error_inside_a_backbone_comes_through(toy):
    class Broken(NoSides):
        def users(self, dimension):
            raise TypeError("the features have no width")

    with pytest.raises(TypeError, match="no width"):
        build("lightgcn", toy, sides=Broken())


@pytest.mark.parametrize("widths", [(), (0,), (16, -1)])
def test_neumf_without_a_layer_or_a_unit_is_refused(widths, toy):
    with pytest.raises(ConfigError, match="widths"):
        build("neumf", toy, {"widths": widths})


def test_neumf_of_one_layer_is_trained_and_ranks(random_split):
    backbone = build("neumf", random_split, {"widths": (64,), "dimension": 8})
    assert fit(backbone, FitSettings(max_epochs=1)).epochs == 1
