"""Cross-entropy over all items, and over a sample of them, for backbones that end in a dot product."""

from __future__ import annotations

from typing import Any

import torch

# Logits of one block, 2 million floats: 8 MB, which stay in the cache between the passes over them.
_BLOCK = 1 << 21


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy whose logits are overwritten by their own gradient, block by block.

    Forward needs the logits O Eᵀ; backward needs G E and Gᵀ O with G = softmax - one-hot. Both gradients are
    made while a block's logits are in the cache, so no [T, I] matrix is ever kept.
    """

    @staticmethod
    def forward(ctx: Any, outputs: torch.Tensor, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count, rows = len(outputs), max(1, _BLOCK // len(items))
        outputs_gradient, items_gradient = torch.empty_like(outputs), torch.zeros_like(items)
        buffer = outputs.new_empty(min(rows, count), len(items))
        minus_one = outputs.new_full((len(buffer), 1), -1.0)
        total = outputs.new_zeros((), dtype=torch.float64)
        for first in range(0, count, rows):
            part, own = outputs[first : first + rows], targets[first : first + rows, None]
            logits = torch.mm(part, items.T, out=buffer[: len(part)])
            picked = logits.gather(1, own)
            highest = logits.amax(dim=1, keepdim=True)
            normaliser = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
            total += (normaliser.log() + highest - picked).sum()
            logits.div_(normaliser).scatter_add_(1, own, minus_one[: len(part)])
            torch.mm(logits, items, out=outputs_gradient[first : first + rows])
            items_gradient.addmm_(logits.T, part)
        ctx.save_for_backward(outputs_gradient.div_(count), items_gradient.div_(count))
        return (total / count).to(outputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        outputs_gradient, items_gradient = ctx.saved_tensors
        return outputs_gradient * gradient, items_gradient * gradient, None


def full_softmax_loss(outputs: torch.Tensor, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean over targets of -ln softmax(O Eᵀ)[target].

    Parameters
    ----------
    outputs : torch.Tensor
        O, float32 [T, d].
    items : torch.Tensor
        E, float32 [I, d].
    targets : torch.Tensor
        Item rows, int64 [T].
    """
    loss: torch.Tensor = _FullSoftmax.apply(outputs, items, targets)
    return loss


def info_nce(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the contrastive loss between two views of N rows: dot products, temperature 1, 2N - 2 negatives.

    Every row of both views is to be told from the 2N - 2 rows that are neither itself nor its other view
    (DuoRec, Eq. 12; SimCLR's NT-Xent).

    Parameters
    ----------
    first, second : torch.Tensor
        float32 [N, d]; row n of one is the other view of row n of the other.
    """
    views = torch.cat([first, second])
    scores = views @ views.T
    scores = scores.masked_fill(torch.eye(len(views), dtype=torch.bool), -torch.inf)
    other = torch.arange(len(views)).roll(len(first))
    return torch.nn.functional.cross_entropy(scores, other)
