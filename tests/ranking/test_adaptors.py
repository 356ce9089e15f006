"""KAR's adaptor and the SLIM-style one against plain numpy."""

import numpy as np
import pytest
import torch

from ranking.adaptors import kar, slim
from ranking.compact_views import FeaturesError
from ranking.rationales import Rationales
from ranking.texts import TextScale

D, DIMENSION = 6, 3
GENERATOR = np.random.default_rng(0)
TEXTS = GENERATOR.normal(size=(4, D)).astype(np.float32)
ITEMS = np.vstack([GENERATOR.normal(size=(4, D)), np.zeros((1, D))]).astype(np.float32)
ROWS = np.array([[0], [2], [-1], [2], [3]])
RATIONALES = Rationales(TEXTS, ROWS, (ROWS >= 0).astype(np.float32))
SCALED = TextScale.of(TEXTS)(TEXTS).numpy()
SCALED_ITEMS = TextScale.of(ITEMS[:4])(ITEMS[:4]).numpy()
USERS = np.array([4, 2, 1, 3, 1])
VECTORS = GENERATOR.normal(size=(5, DIMENSION)).astype(np.float32)


def weights(module):
    return {name: value.detach().numpy() for name, value in module.named_parameters(remove_duplicate=False)}


def expert(w, group, number, x):
    """An MLP D → hidden → width with ReLU after each layer."""
    hidden = w[f"{group}.weight"].shape[1]
    part = slice(number * hidden, (number + 1) * hidden)
    first = np.maximum(w[f"{group}.first.weight"][part] @ x + w[f"{group}.first.bias"][part], 0)
    return np.maximum(w[f"{group}.weight"][number].T @ first + w[f"{group}.bias"][number], 0)


def hybrid(w, x):
    """Σ_e softmax(gate(x))_e expert_e(x), the two shared ones first."""
    logits = w["gate.weight"] @ x + w["gate.bias"]
    gate = np.exp(logits) / np.exp(logits).sum()
    experts = [expert(w, "shared", n, x) for n in range(2)] + [expert(w, "own", n, x) for n in range(6)]
    return sum(share * out for share, out in zip(gate, experts, strict=True))


def mixed(w, e, h):
    """Linear([e; h]) whose part of e is the identity."""
    return np.hstack([np.eye(DIMENSION), w["text.weight"]]) @ np.concatenate([e, h]) + w["text.bias"]


def adapted(adaptor):
    with torch.no_grad():
        users = adaptor.users(torch.from_numpy(VECTORS), torch.from_numpy(USERS))
        return users.numpy(), adaptor.items(torch.from_numpy(VECTORS)).numpy()


def randomised(adaptor):
    torch.manual_seed(0)
    with torch.no_grad():
        for value in adaptor.parameters():
            value.normal_()
    return adaptor.eval()


def expected(adaptor, encode_user, encode_item, width):
    users = [
        mixed(weights(adaptor.mix_users), e, encode_user(SCALED[ROWS[u, 0]]) if ROWS[u, 0] >= 0 else np.zeros(width))
        for e, u in zip(VECTORS, USERS, strict=True)
    ]
    encoded = [*map(encode_item, SCALED_ITEMS), np.zeros(width)]
    return users, [mixed(weights(adaptor.mix_items), e, h) for e, h in zip(VECTORS, encoded, strict=True)]


def test_kar_is_its_equations():
    adaptor = randomised(kar(DIMENSION, RATIONALES, ITEMS, hidden=5, width=4, dropout=0.5))
    w_users, w_items = weights(adaptor.encode_users), weights(adaptor.encode_items)
    users, items = adapted(adaptor)
    wanted = expected(adaptor, lambda x: hybrid(w_users, x), lambda x: hybrid(w_items, x), 4)
    np.testing.assert_allclose(users, wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(items, wanted[1], rtol=1e-4, atol=1e-4)


def test_kar_shares_two_experts_and_has_six_on_each_side_of_the_published_size():
    adaptor = kar(DIMENSION, RATIONALES, ITEMS)
    assert adaptor.encode_users.shared is adaptor.encode_items.shared
    assert adaptor.encode_users.own is not adaptor.encode_items.own
    one = D * 128 + 128 + 128 * 32 + 32
    for side in (adaptor.encode_users, adaptor.encode_items):
        sizes = [sum(p.numel() for p in part.parameters()) for part in (side.shared, side.own, side.gate)]
        assert sizes == [2 * one, 6 * one, (D + 1) * 8]


def test_kar_drops_after_both_layers_in_training_only():
    adaptor = kar(DIMENSION, RATIONALES, ITEMS, dropout=0.5)
    text = torch.from_numpy(SCALED[:1]).expand(200, D)
    experts = adaptor.encode_users.own
    assert len(experts(text).unique(dim=0)) > 100
    experts.eval()
    assert len(experts(text).unique(dim=0)) == 1


def test_slim_projects_each_text_and_concatenates():
    adaptor = randomised(slim(DIMENSION, RATIONALES, ITEMS))
    users, items = adapted(adaptor)

    def linear(w):
        return lambda x: w["weight"] @ x + w["bias"]

    wanted = expected(adaptor, linear(weights(adaptor.encode_users)), linear(weights(adaptor.encode_items)), DIMENSION)
    np.testing.assert_allclose(users, wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(items, wanted[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [kar, slim])
def test_an_adaptor_starts_as_the_vectors_alone_and_learns_from_the_first_step(make):
    adaptor = make(DIMENSION, RATIONALES, ITEMS)
    for found in adapted(adaptor.eval()):
        np.testing.assert_array_equal(found, VECTORS)
    vectors = torch.from_numpy(VECTORS)
    (adaptor.users(vectors, torch.from_numpy(USERS)) @ adaptor.items(vectors).T).square().sum().backward()
    assert all(part.text.weight.grad.any() for part in (adaptor.mix_users, adaptor.mix_items))


@pytest.mark.parametrize("make", [kar, slim])
def test_gradients_reach_every_weight(make):
    adaptor = randomised(make(DIMENSION, RATIONALES, ITEMS))
    vectors = torch.from_numpy(VECTORS)
    scores = adaptor.users(vectors, torch.from_numpy(USERS)) @ adaptor.items(vectors).T
    scores.square().sum().backward()
    assert [name for name, value in adaptor.named_parameters() if not value.grad.any()] == []


def test_what_does_not_fit_is_named():
    with pytest.raises(FeaturesError, match="different text encoders"):
        kar(DIMENSION, RATIONALES, ITEMS[:, :4])
    with pytest.raises(FeaturesError, match="differ in number") as error:
        slim(DIMENSION, RATIONALES, ITEMS).items(torch.zeros(4, DIMENSION))
    assert (error.value.got, error.value.expected) == ("4", "5")
