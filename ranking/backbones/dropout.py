"""Dropout from random bytes: torch's Bernoulli draws on a CPU were a fifth of a training step."""

from __future__ import annotations

import torch
from torch.nn import functional

_LEVELS = 256


def dropped(values: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Zero values at random and scale the others so that the expectation stays.

    One random byte decides for each value, so the rate is rounded to 1/256. Drawn from torch's global generator.
    Elsewhere than on a CPU it is torch's own dropout.

    Parameters
    ----------
    values : torch.Tensor
        float32, any shape.
    rate : float
        Share that is dropped, below 1.
    training : bool
        Whether to drop at all.
    """
    if values.device.type != "cpu":
        return functional.dropout(values, rate, training)
    threshold = min(round(rate * _LEVELS), _LEVELS - 1)
    if not training or not threshold:
        return values
    count = values.numel()
    # Eight bytes a draw: the generator's cost is per draw, whatever its width.
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.uint8)[:count].view(values.shape) >= threshold
    return values * (kept * (_LEVELS / (_LEVELS - threshold)))
