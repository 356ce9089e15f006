"""The BPR loss by hand, and negatives: never taken where there is another, and uniform."""

import numpy as np
import pytest
import torch

from ranking.backbones import build
from ranking.backbones.pairs import NegativeSampler, bpr

from .conftest import make_split

NAMES = ["lightgcn", "ngcf", "neumf"]


def test_bpr_and_its_gradient_by_hand():
    user = torch.tensor([[1.0, 2.0], [0.5, 0.0]], requires_grad=True)
    positive = torch.tensor([[3.0, 0.0], [2.0, 9.0]], requires_grad=True)
    negative = torch.tensor([[1.0, 1.0], [0.0, 7.0]], requires_grad=True)
    # Differences of scores: 1·2 + 2·(-1) = 0 and 0.5·2 + 0·2 = 1
    loss = bpr(user, positive, negative)
    assert loss.item() == pytest.approx((np.log(2) + np.log1p(np.exp(-1))) / 2, rel=1e-6)
    loss.backward()
    slope = -np.array([[0.5], [1 / (1 + np.e)]]) / 2  # of the mean in each difference: -(1 - sigmoid) / B
    assert user.grad.numpy() == pytest.approx(slope * [[2, -1], [2, 2]], rel=1e-6)
    assert positive.grad.numpy() == pytest.approx(slope * [[1, 2], [0.5, 0]], rel=1e-6)
    assert negative.grad.numpy() == pytest.approx(-slope * [[1, 2], [0.5, 0]], rel=1e-6)


def test_negatives_are_uniform_over_what_a_user_has_not_taken():
    # Nothing; the first; the last; both ends; neighbours, one of them twice; all but one; everything.
    taken = [[], [0], [6], [0, 6], [2, 3, 3, 4], [0, 1, 2, 4, 5, 6], list(range(7))]
    users = np.repeat(np.arange(len(taken)), [len(items) for items in taken])
    sampler = NegativeSampler(users, np.concatenate(taken).astype(np.int64), len(taken), 7)
    draws = 21_000
    rows = torch.arange(len(taken)).repeat(draws)
    found = sampler.draw(rows, torch.Generator().manual_seed(0))
    counts = np.zeros((len(taken), 7))
    np.add.at(counts, (rows.numpy(), found.numpy()), 1)
    for user, items in enumerate(taken):
        free = [item for item in range(7) if item not in items] or list(range(7))
        expected = np.zeros(7)
        expected[free] = draws / len(free)
        assert not counts[user][expected == 0].any(), f"user {user} got an item of their own"
        assert counts[user] == pytest.approx(expected, abs=5 * np.sqrt(draws * 0.25))


def test_negatives_of_random_users_are_never_their_own(random_split):
    users, items = random_split.training_pairs()
    taken = set(zip(users.tolist(), items.tolist(), strict=True))
    sampler = NegativeSampler(users, items, random_split.n_users, random_split.n_items)
    rows = torch.arange(random_split.n_users).repeat(2_000)
    found = set(zip(rows.tolist(), sampler.draw(rows, torch.Generator().manual_seed(1)).tolist(), strict=True))
    every = {(user, item) for user in range(random_split.n_users) for item in range(random_split.n_items)}
    assert found == every - taken


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_has_every_interaction_once_in_batches(name, random_split):
    backbone = build(name, random_split, {"batch_size": 32})
    users, items = random_split.training_pairs()
    generator = np.random.default_rng(0)
    epochs = [list(backbone.batches(generator)) for _ in range(2)]
    for epoch in epochs:
        assert {len(batch.users) for batch in epoch[:-1]} == {32}
        seen = [torch.cat(column).tolist() for column in zip(*epoch, strict=True)]
        assert sorted(zip(*seen[:2], strict=True)) == sorted(zip(users.tolist(), items.tolist(), strict=True))
    assert not torch.equal(epochs[0][0].users, epochs[1][0].users)
    again = list(backbone.batches(np.random.default_rng(0)))
    assert all(
        torch.equal(a, b) for one, two in zip(again, epochs[0], strict=True) for a, b in zip(one, two, strict=True)
    )


def test_a_user_who_took_everything_still_trains():
    split = make_split({"u0": [0, 1, 2, 0, 1], "u1": [0, 1, 2]})
    backbone = build("lightgcn", split)
    assert split.n_items == 3
    assert all(torch.isfinite(backbone.loss(batch)) for batch in backbone.batches(np.random.default_rng(0)))
