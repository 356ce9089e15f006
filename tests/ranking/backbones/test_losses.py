"""Losses against their equations."""

import numpy as np
import pytest
import torch

from ranking.backbones import losses
from ranking.backbones.losses import full_softmax_loss, info_nce, sampled_softmax_loss
from reland_features.encoders import sasrec


@pytest.mark.parametrize("scale", [1.0, 12.0])  # below and above the bound over which the maximum is subtracted
@pytest.mark.parametrize("block", [3 << 19, 40])
def test_the_full_softmax_is_torchs_cross_entropy_in_value_and_gradient(block, scale, monkeypatch):
    monkeypatch.setattr(losses, "_BLOCK", block)
    torch.manual_seed(0)
    outputs, items = torch.randn(23, 8) * scale, torch.randn(19, 8) * scale
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


def test_the_sampled_softmax_by_hand():
    """Target 0 scores 1; of the negatives 1, 2, 0 the last is the target, 1 was expected twice, 2 half a time."""
    outputs = torch.tensor([[1.0, 0.0]], requires_grad=True)
    items = torch.tensor([[1.0, 5.0], [2.0, 0.0], [-1.0, 1.0]], requires_grad=True)
    log_q = torch.log(torch.tensor([2.0, 0.5, 1.0]))
    loss = sampled_softmax_loss(outputs, items, torch.tensor([0]), torch.tensor([1, 2, 0]), log_q)
    weights = np.array([np.e, np.exp(2) / 2, np.exp(-1) / 0.5])
    chance = weights / weights.sum()
    assert loss.item() == pytest.approx(-np.log(chance[0]))
    loss.backward()
    gradient = chance - [1, 0, 0]
    assert items.grad.numpy() == pytest.approx(gradient[:, None] * [1.0, 0.0], abs=1e-6)
    assert outputs.grad.numpy()[0] == pytest.approx(gradient @ items.detach().numpy(), abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_the_sampled_softmax_is_the_encoders_in_value_and_gradient(scale):
    torch.manual_seed(0)
    outputs, items = torch.randn(23, 8) * scale, torch.randn(19, 8) * scale
    targets, negatives, log_q = torch.randint(19, (23,)), torch.randint(19, (30,)), torch.randn(30)
    found = []
    for loss in (sampled_softmax_loss, sasrec.sampled_softmax_loss):
        o, e = outputs.clone().requires_grad_(), items.clone().requires_grad_()
        value = 2.5 * loss(o, e, targets, negatives, log_q)
        value.backward()
        found.append((value.detach(), o.grad, e.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_sampled_softmax_of_negatives_that_are_all_the_target_is_zero():
    outputs = torch.ones(1, 2, requires_grad=True)
    loss = sampled_softmax_loss(outputs, torch.ones(3, 2), torch.tensor([1]), torch.tensor([1, 1]), torch.zeros(2))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(outputs.grad, torch.zeros(1, 2))


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
