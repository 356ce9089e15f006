"""Cross-entropy over all items, and over a sample of them, for backbones that end in a dot product.

Both are autograd functions that overwrite their logits with the logits' gradient: forward and backward cost
three matrix products, and no [T, I] matrix is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

# Logits of one block: 6 MB, which stay in the cache between the passes over them. Whole sixteens of rows, as
# the matrix product computes them.
_BLOCK = 3 << 19
_ROWS = 16
# Up to here exp neither overflows nor vanishes, whatever the logits' signs and however many items there are.
_SAFE_LOGIT = 60.0


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy whose logits never leave the cache.

    Forward needs the logits O Eᵀ; backward needs G E and Gᵀ O with G = softmax - one-hot. With P = exp(O Eᵀ)
    and row sums z, G E = P E / z - E[target] and Gᵀ O = Pᵀ (O / z) - (O at their targets): the
    large matrix is written by the product, passed over once by exp and once by the sum, and not touched again.
    """

    @staticmethod
    def forward(ctx: Any, outputs: torch.Tensor, items: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count, rows = len(outputs), max(_ROWS, _BLOCK // len(items) // _ROWS * _ROWS)
        # Products that read and write the long side along memory are 1.7 times as fast as those that cross it.
        columns = items.T.contiguous()
        outputs_gradient, columns_gradient = torch.empty_like(outputs), torch.zeros_like(columns)
        buffer = outputs.new_empty(min(rows, count), len(items))
        chosen = items[targets]
        total = -(outputs * chosen).sum(dtype=torch.float64)
        bounded = bool(outputs.norm(dim=1).max() * items.norm(dim=1).max() < _SAFE_LOGIT)
        for first in range(0, count, rows):
            part = outputs[first : first + rows]
            logits = torch.mm(part, columns, out=buffer[: len(part)])
            if not bounded:
                highest = logits.amax(dim=1, keepdim=True)
                logits.sub_(highest)
                total += highest.sum()
            normaliser = logits.exp_().sum(dim=1, keepdim=True)
            total += normaliser.log().sum()
            torch.mm(logits, items, out=outputs_gradient[first : first + rows]).div_(normaliser)
            columns_gradient.addmm_((part / normaliser).T, logits)
        items_gradient = columns_gradient.T.contiguous().index_add_(0, targets, outputs, alpha=-1)
        ctx.save_for_backward(outputs_gradient.sub_(chosen).div_(count), items_gradient.div_(count))
        return (total / count).to(outputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        outputs_gradient, items_gradient = ctx.saved_tensors
        return outputs_gradient * gradient, items_gradient * gradient, None


class _SampledSoftmax(torch.autograd.Function):
    """Cross-entropy of a positive against negatives that are shared by all rows."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: torch.Tensor,
        items: torch.Tensor,
        targets: torch.Tensor,
        negatives: torch.Tensor,
        log_q: torch.Tensor,
    ) -> torch.Tensor:
        drawn, chosen = items[negatives], items[targets]
        positive = (outputs * chosen).sum(dim=1, keepdim=True)
        logits = torch.addmm(-log_q, outputs, drawn.T)
        logits.masked_fill_(targets[:, None] == negatives, -torch.inf)
        highest = torch.maximum(logits.amax(dim=1, keepdim=True), positive)
        weights = logits.sub_(highest).exp_()
        own = (positive - highest).exp_()
        normaliser = weights.sum(dim=1, keepdim=True).add_(own)
        loss = (normaliser.log() + highest - positive).mean()
        # d loss / d logit, for the negatives and for the positive
        scale = 1 / (normaliser * len(outputs))
        weights.mul_(scale)
        own = own.mul_(scale).sub_(1 / len(outputs))
        items_gradient = torch.zeros_like(items)
        items_gradient.index_add_(0, negatives, (outputs.T @ weights).T)
        items_gradient.index_add_(0, targets, outputs * own)
        ctx.save_for_backward(torch.addmm(chosen * own, weights, drawn), items_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:  # type: ignore[override]
        outputs_gradient, items_gradient = ctx.saved_tensors
        return outputs_gradient * gradient, items_gradient * gradient, None, None, None


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
    if outputs.device.type != "cpu":  # the blocks are for a CPU's cache
        return functional.cross_entropy(outputs @ items.T, targets)
    loss: torch.Tensor = _FullSoftmax.apply(outputs, items, targets)
    return loss


def sampled_softmax_loss(
    outputs: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, log_q: torch.Tensor
) -> torch.Tensor:
    """Return the mean over targets of -ln(e^s_t / (e^s_t + Σ_j e^(s_j - log_q_j))), j over the negatives.

    A negative that was drawn n times in expectation counts as 1 / n, so that the sum estimates the full
    softmax's; one that is the target is left out. As `reland_features.encoders.sasrec.sampled_softmax_loss`,
    in a third of the time.

    Parameters
    ----------
    outputs, items, targets
        As in `full_softmax_loss`.
    negatives : torch.Tensor
        Item rows, int64 [n].
    log_q : torch.Tensor
        Logarithm of the expected number of draws of each negative, float32 [n].
    """
    loss: torch.Tensor = _SampledSoftmax.apply(outputs, items, targets, negatives, log_q)
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
    scores = scores.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(scores, other)
