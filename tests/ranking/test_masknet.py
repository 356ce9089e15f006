"""MaskNet's equations by plain numpy, its masks, and what it can learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from ranking.masknet import (
    PADDING,
    FieldSizes,
    ItemTable,
    MaskBlock,
    MaskBlocks,
    MaskNet,
    MaskNetSettings,
    UserTable,
)
from reland_features.errors import ConfigError

SIZES = FieldSizes(
    profiles=(3, 4), activity=5, user_count=4, items=6, brands=3, categories=4, item_count=4, clusters=3, text=8
)


def norm(values, gain=1.0, bias=0.0):
    centred = values - values.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + bias


def block_by_hand(block: MaskBlock, context: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """ReLU(LN(W(mask ⊙ hidden))), mask = W2·ReLU(W1·context)."""
    state = {name: value.numpy() for name, value in block.state_dict().items()}
    between = np.maximum(context @ state["mask.0.weight"].T + state["mask.0.bias"], 0)
    mask = between @ state["mask.2.weight"].T + state["mask.2.bias"]
    return np.maximum(norm((mask * hidden) @ state["project.weight"].T, state["norm.weight"], state["norm.bias"]), 0)


def users(seed=(0, 1, -1), history=((1, 2, PADDING), (3, PADDING, PADDING), (PADDING,) * 3)) -> UserTable:
    generator = torch.Generator().manual_seed(1)
    n = len(seed)
    return UserTable(
        profile=torch.tensor([[1, 2]] * n),
        activity=torch.arange(n) % 5,
        count=torch.arange(n) % 4,
        history=torch.tensor(history),
        rationales=functional.normalize(torch.randn(2, 8, generator=generator)),
        seed=torch.tensor(seed),
        similarity=torch.linspace(0.5, 1, n),
        cluster=torch.arange(n) % 3,
    )


def items() -> ItemTable:
    generator = torch.Generator().manual_seed(2)
    return ItemTable(
        item=torch.tensor([1, 2, 3, 0]),
        brand=torch.tensor([1, 2, 0, 0]),
        count=torch.tensor([1, 2, 3, 0]),
        categories=torch.tensor([[1, 2], [3, PADDING], [PADDING, PADDING], [1, PADDING]]),
        text=torch.cat([functional.normalize(torch.randn(3, 8, generator=generator)), torch.zeros(1, 8)]),
    )


def test_mask_block_is_the_papers_equation():
    torch.manual_seed(0)
    block = MaskBlock(context=6, inputs=4, outputs=5, reduction=2.0)
    torch.nn.init.normal_(block.norm.weight)
    torch.nn.init.normal_(block.norm.bias)
    assert block.mask[0].out_features == 8, "reduction ratio 2: the hidden layer is twice the mask"
    context, hidden = torch.randn(7, 6), torch.randn(7, 4)
    expected = block_by_hand(block, context.numpy(), hidden.numpy())
    assert (expected > 0).any()
    np.testing.assert_allclose(block(context, hidden).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_serial_and_parallel_arrangement(kind):
    torch.manual_seed(0)
    settings = MaskNetSettings(kind=kind, dimension=4, blocks=3, width=6, hidden=5)
    network = MaskBlocks(fields=3, settings=settings).eval()
    torch.nn.init.normal_(network.gain)
    torch.nn.init.normal_(network.bias)
    assert [block.project.in_features for block in network.blocks] == ([12, 6, 6] if kind == "serial" else [12] * 3)
    embeddings = torch.randn(9, 3, 4)
    raw = embeddings.numpy()
    context = raw.reshape(9, 12)
    hidden = norm(raw, network.gain.detach().numpy(), network.bias.detach().numpy()).reshape(9, 12)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    if kind == "serial":
        for block in network.blocks:
            hidden = block_by_hand(block, context, hidden)
        expected = hidden @ state["head.weight"].T + state["head.bias"]
    else:
        joined = np.concatenate([block_by_hand(block, context, hidden) for block in network.blocks], axis=1)
        between = np.maximum(joined @ state["head.0.weight"].T + state["head.0.bias"], 0)
        expected = between @ state["head.2.weight"].T + state["head.2.bias"]
    np.testing.assert_allclose(network(embeddings).detach(), expected[:, 0], atol=1e-5)


def test_behaviour_is_pooled_by_attention_of_the_item_and_a_learnt_vector_stands_for_none():
    torch.manual_seed(0)
    model = MaskNet(SIZES, MaskNetSettings(dimension=4)).eval()
    table, empty = model.items.weight.detach().numpy(), model.no_history.detach().numpy()
    target = torch.randn(3, 4)
    pooled = model._attended(target, users().history).detach().numpy()
    for row, history in enumerate([[1, 2], [3], []]):
        values = np.vstack([empty, table[history]])
        weight = np.exp(values @ target[row].numpy() / 2)
        np.testing.assert_allclose(pooled[row], weight @ values / weight.sum(), atol=1e-6)
    np.testing.assert_allclose(pooled[2], empty[0], atol=1e-6)


def test_categories_are_averaged():
    torch.manual_seed(0)
    model = MaskNet(SIZES, MaskNetSettings(dimension=4)).eval()
    table = model.categories.weight.detach()
    means = model._mean(items().categories).detach()
    expected = torch.stack([(table[1] + table[2]) / 2, table[3], model.no_category.detach()[0], table[1]])
    torch.testing.assert_close(means, expected)


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_a_user_without_rationale_is_scored_by_the_mask_whatever_stands_in_the_columns(kind):
    torch.manual_seed(0)
    model = MaskNet(SIZES, MaskNetSettings(kind=kind)).eval()
    user, item = torch.tensor([0, 2]), torch.tensor([0, 0])
    given = users()
    other = dataclasses.replace(
        given, rationales=-given.rationales, similarity=given.similarity + 1, cluster=given.cluster * 0
    )
    before, after = model(given, items(), user, item), model(other, items(), user, item)
    assert before[0] != after[0]
    assert before[1] == after[1]
    nobody = dataclasses.replace(given, seed=given.seed * 0 - 1)
    without_pool = dataclasses.replace(nobody, rationales=given.rationales[:0])
    torch.testing.assert_close(model(nobody, items(), user, item), model(without_pool, items(), user, item))


def test_without_rationales_nothing_of_them_is_read():
    torch.manual_seed(0)
    model = MaskNet(SIZES, MaskNetSettings(rationales=False)).eval()
    user, item = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
    nobody = dataclasses.replace(users(), seed=torch.full((3,), -1))
    torch.testing.assert_close(model(users(), items(), user, item), model(nobody, items(), user, item))


def test_unknown_rows_are_learnt_though_training_has_no_unknown_value():
    torch.manual_seed(0)
    model = MaskNet(SIZES, MaskNetSettings(unknown_rate=0.2))
    known = items()
    before = {name: getattr(model, name).weight[0].clone() for name in ("items", "brands", "clusters", "activity")}
    missing = model.missing.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    some = dataclasses.replace(users(), activity=torch.tensor([1, 2, 3]), cluster=torch.tensor([1, 2, 1]))
    for _ in range(20):
        optimizer.zero_grad()
        user = torch.randint(0, 2, (32,))
        logits = model(some, known, user, torch.randint(0, 2, (32,)))
        functional.binary_cross_entropy_with_logits(logits, (user > 0).float()).backward()
        optimizer.step()
    for name, row in before.items():
        assert not torch.equal(getattr(model, name).weight[0], row), name
    assert not torch.equal(model.missing, missing)


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_it_learns_clicks_that_the_cosine_of_rationale_and_item_decides(kind):
    torch.manual_seed(0)
    n_users, n_items = 400, 60
    text, rationales = (functional.normalize(torch.randn(n, 8)) for n in (n_items, 20))
    seed = torch.randint(0, 20, (n_users,))
    alike = torch.zeros(n_users, dtype=torch.int64)
    crowd = UserTable(
        profile=torch.zeros(n_users, 0, dtype=torch.int64),
        activity=alike,
        count=alike,
        history=torch.full((n_users, 1), PADDING),
        rationales=rationales,
        seed=seed,
        similarity=torch.ones(n_users),
        cluster=alike,
    )
    none = torch.zeros(n_items, dtype=torch.int64)
    shelf = ItemTable(torch.arange(1, n_items + 1), none, none, torch.full((n_items, 1), PADDING), text)
    sizes = FieldSizes((), 1, 1, n_items + 1, 1, 1, 1, 1, 8)
    user, item = torch.randint(0, n_users, (8000,)), torch.randint(0, n_items, (8000,))
    label = ((rationales[seed[user]] * text[item]).sum(1) > 0).float()
    losses = {}
    for rationales_in in (True, False):
        model = MaskNet(sizes, MaskNetSettings(kind, rationales_in, dimension=8, width=16, hidden=16, blocks=1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
        for step in range(60):
            chosen = slice(step % 12 * 500, step % 12 * 500 + 500)
            optimizer.zero_grad()
            logits = model(crowd, shelf, user[chosen], item[chosen])
            functional.binary_cross_entropy_with_logits(logits, label[chosen]).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            held = model(crowd, shelf, user[6000:], item[6000:])
        losses[rationales_in] = float(functional.binary_cross_entropy_with_logits(held, label[6000:]))
    assert losses[True] < 0.35
    assert losses[False] > 0.6, "nothing else tells clicks apart"


@pytest.mark.parametrize(
    "wrong",
    [
        {"dimension": 0},
        {"blocks": 0},
        {"width": 1.5},
        {"hidden": -1},
        {"reduction": 0.0},
        {"dropout": 1.0},
        {"unknown_rate": -0.1},
    ],
)
def test_a_shape_that_no_network_has_is_refused(wrong):
    with pytest.raises(ConfigError, match="no training can be done with") as raised:
        MaskNetSettings(**wrong)
    assert raised.value.where == f"masknet.{next(iter(wrong))}"


def test_a_kind_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no such kind") as raised:
        MaskNetSettings(kind="both")
    assert (raised.value.where, raised.value.got) == ("masknet.kind", "both")
