"""Losses against their equations."""

import numpy as np
import pytest
import torch

from ranking.backbones import losses
from ranking.backbones.losses import full_softmax_loss, info_nce
from ranking.backbones.pairs import bpr


@pytest.mark.parametrize("block", [1 << 21, 40])
def test_the_full_softmax_is_torchs_cross_entropy_in_value_and_gradient(block, monkeypatch):
    monkeypatch.setattr(losses, "_BLOCK", block)
    torch.manual_seed(0)
    outputs, items = torch.randn(23, 8) * 3, torch.randn(19, 8) * 3
    targets = torch.randint(19, (23,))
    found = []
    for loss in (full_softmax_loss, lambda o, e, t: torch.nn.functional.cross_entropy(o @ e.T, t)):
        o, e = outputs.clone().requires_grad_(), items.clone().requires_grad_()
        value = 2.5 * loss(o, e, targets)
        value.backward()
        found.append((value.detach(), o.grad, e.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_full_softmax_stands_scores_that_overflow():
    outputs, items = torch.tensor([[200.0]]), torch.tensor([[1.0], [-1.0]])
    assert full_softmax_loss(outputs, items, torch.tensor([1])).item() == pytest.approx(400.0)


def test_bpr_by_hand():
    user = torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    positive, negative = torch.tensor([[1.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    # x_uij = 1 and -1: -ln sigmoid is ln(1 + e^-1) and ln(1 + e)
    loss = bpr(user, positive, negative)
    assert loss.item() == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2)
    loss.backward()
    # d/dx -ln sigmoid(x) = -sigmoid(-x), times (e_i - e_j), over two rows
    low, high = 1 / (1 + np.e), 1 / (1 + np.exp(-1))
    assert user.grad.numpy() == pytest.approx(np.array([[-low, 0.0], [-2 * high, high]]) / 2)


def test_info_nce_by_double_loop():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(4, 3)), generator.normal(size=(4, 3))
    views = np.concatenate([first, second])
    total = 0.0
    for n in range(8):
        other = (n + 4) % 8
        scores = {m: float(views[n] @ views[m]) for m in range(8) if m != n}
        assert len(scores) - 1 == 2 * 4 - 2  # negatives
        total -= scores[other] - np.log(sum(np.exp(score) for score in scores.values()))
    assert info_nce(torch.from_numpy(first), torch.from_numpy(second)).item() == pytest.approx(total / 8)
