"""Dropout keeps expectation and rate, and repeats with the seed."""

import pytest
import torch

from ranking.backbones.dropout import dropped


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_expectation(rate):
    torch.manual_seed(0)
    values = torch.full((301, 997), 2.0, requires_grad=True)
    result = dropped(values, rate, training=True)
    zeros = (result == 0).float().mean().item()
    assert zeros == pytest.approx(round(rate * 256) / 256, abs=0.004)  # five standard deviations
    assert result.mean().item() == pytest.approx(2.0, rel=0.03)
    assert result.unique().numel() == 2
    result.sum().backward()
    torch.testing.assert_close(values.grad, result.detach() / 2)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(1)
    zero = (dropped(torch.ones(400_000), 0.5, training=True) == 0).float()
    for shift in (1, 3, 8):
        assert (zero[:-shift] * zero[shift:]).mean().item() == pytest.approx(0.25, abs=0.005)


def test_it_repeats_with_the_seed_and_does_nothing_when_scoring():
    values = torch.randn(13, 5)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(dropped(values, 0.3, training=True))
    assert torch.equal(*found)
    assert dropped(values, 0.3, training=False) is values
    assert dropped(values, 0.0, training=True) is values
