"""Run a decoder-only transformer over the next tokens of many sequences at once, without padding.

transformers pads a batch and copies its cache at every step; on a CPU that costs more than the model. Here the
tokens of all sequences lie end to end in one row, so that every linear layer sees real tokens only, and an
attention function of our own keeps each sequence's keys and values in place. It takes any model that calls
transformers' attention interface (`_supports_attention_backend`) with plain causal attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from reland_features.errors import EngineError

ATTENTION = "reland_packed"
_COPY_COST = 4  # copying a sequence's keys and values out of the store costs about as much as reading four


@dataclass
class KeyValues:
    """Keys and values of `sequences` sequences of up to `capacity` tokens each.

    Attributes
    ----------
    lengths : list of int
        Tokens held of each sequence.
    layers : dict
        By layer: keys and values [2, sequences, heads, capacity, head size].
    """

    sequences: int
    capacity: int
    lengths: list[int] = field(init=False)
    layers: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lengths = [0] * self.sequences

    def share(self, source: int) -> None:
        """Give every sequence what `source` holds: their common first tokens."""
        length = self.lengths[source]
        for layer in self.layers.values():
            layer[:, :, :, :length] = layer[:, source : source + 1, :, :length].clone()
        self.lengths = [length] * self.sequences


@dataclass(frozen=True)
class Pack:
    """Where the tokens of one forward pass belong; made once, used by every layer.

    Parameters
    ----------
    store : KeyValues
        Its sequences are extended.
    rows : list of int
        Sequences that get tokens, ascending.
    counts : list of int
        How many each gets, at least one.
    """

    store: KeyValues
    rows: list[int]
    counts: list[int]
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        starts = [self.store.lengths[row] for row in self.rows]
        few = len(self.rows) * _COPY_COST <= self.store.sequences
        lines = self.rows if few else list(range(self.store.sequences))
        of_row = {row: line for line, row in enumerate(lines)}
        spans = list(zip(self.rows, starts, self.counts, strict=True))
        total = max(start + count for _, start, count in spans)
        first = torch.full((len(lines),), total, device=self.device)  # lines without new tokens: see all, unread
        first[[of_row[row] for row in self.rows]] = torch.tensor(starts, device=self.device)
        query = torch.arange(max(self.counts), device=self.device)[:, None]
        hidden = torch.arange(total, device=self.device) > first[:, None, None] + query
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, -torch.inf)
        values: dict[str, Any] = {
            "row": [row for row, _, count in spans for _ in range(count)],
            "position": [start + n for _, start, count in spans for n in range(count)],
            "line": [of_row[row] for row, _, count in spans for _ in range(count)],
            "column": [n for count in self.counts for n in range(count)],
        }
        values = {name: torch.tensor(value, device=self.device) for name, value in values.items()}
        for name, value in {**values, "total": total, "lines": lines, "mask": mask}.items():
            object.__setattr__(self, name, value)

    row: Tensor = field(init=False)
    """Sequence of each token."""
    position: Tensor = field(init=False)
    """Position of each token in its sequence."""
    lines: list[int] = field(init=False)
    """Sequences that attention computes: those that get tokens, or all where copying a part would cost more."""
    line: Tensor = field(init=False)
    """Index in `lines` of each token's sequence."""
    column: Tensor = field(init=False)
    """Index of each token among its sequence's new ones."""
    total: int = field(init=False)
    """Tokens of the longest sequence, after this pass."""
    mask: Tensor = field(init=False)
    """Additive causal mask [lines, longest count, total]."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    pack: Pack,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend from every packed token to its own sequence; an attention function of transformers.

    Parameters
    ----------
    query : Tensor
        [1, query heads, tokens, head size]; `key` and `value` the same with their number of heads.

    Returns
    -------
    tuple
        Output [1, tokens, query heads, head size], and no attention weights.
    """
    store, heads, size = pack.store, key.shape[1], key.shape[3]
    layer = store.layers.get(module.layer_idx)  # type: ignore[arg-type]
    if layer is None:
        layer = key.new_zeros(2, store.sequences, heads, store.capacity, size)
        store.layers[module.layer_idx] = layer  # type: ignore[index]
    layer[0, pack.row, :, pack.position] = key[0].transpose(0, 1)
    layer[1, pack.row, :, pack.position] = value[0].transpose(0, 1)
    groups = query.shape[1] // heads
    width = max(pack.counts)
    # Query heads that share a key head become more queries of it: no key is copied.
    asked = query.new_zeros(len(pack.lines), heads, groups, width, size)
    asked[pack.line, :, :, pack.column] = query[0].transpose(0, 1).unflatten(1, (heads, groups))
    known = layer[:, :, :, : pack.total]
    if len(pack.lines) == 1:
        known = known[:, pack.lines[0] : pack.lines[0] + 1]
    elif len(pack.lines) < store.sequences:
        known = known[:, pack.lines]
    answer = functional.scaled_dot_product_attention(
        asked.flatten(2, 3),
        known[0],
        known[1],
        attn_mask=pack.mask.repeat(1, groups, 1)[:, None],
        scale=scaling,
    )
    answer = answer.unflatten(2, (groups, width))[pack.line, :, :, pack.column]
    return answer.flatten(1, 2)[None], None


def forward(model: nn.Module, store: KeyValues, chunks: dict[int, Sequence[int]]) -> Tensor:
    """Feed new tokens to some sequences.

    Parameters
    ----------
    model : nn.Module
        The body of a causal model (no head) whose attention is `ATTENTION`.
    store : KeyValues
        What the sequences already hold; extended.
    chunks : dict
        New tokens by sequence.

    Returns
    -------
    Tensor
        Hidden state after the last new token of each sequence, in ascending order of sequence [len(chunks), d].
    """
    rows = sorted(chunks)
    counts = [len(chunks[row]) for row in rows]
    weight = next(model.parameters())
    pack = Pack(store, rows, counts, weight.device, weight.dtype)
    tokens = torch.tensor([[token for row in rows for token in chunks[row]]], device=weight.device)
    hidden = model(input_ids=tokens, position_ids=pack.position[None], use_cache=False, pack=pack).last_hidden_state[0]
    for row, count in zip(rows, counts, strict=True):
        store.lengths[row] += count
    return hidden[torch.tensor(counts, device=weight.device).cumsum(0) - 1]


@torch.inference_mode()
def adopt(model: Any, source: str) -> None:
    """Switch a causal model to packed attention, after comparing it with transformers' own on a few tokens.

    float32 weights on a CPU are laid out by input first: two to four times faster with up to about 50 tokens
    a pass, and equal above.

    Raises
    ------
    EngineError
        The model's outputs change: its attention is not plain causal attention.
    """
    weight = model.get_input_embeddings().weight
    if weight.dtype == torch.float32 and weight.device.type == "cpu":
        for module in model.base_model.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.t().contiguous().t()
    ids = [n % weight.shape[0] for n in range(24)]
    tokens = torch.tensor([ids], device=weight.device)
    expected = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0, [11, 23]].float()
    try:
        AttentionInterface.register(ATTENTION, packed_attention)
        model.set_attn_implementation(ATTENTION)
        store = KeyValues(2, len(ids))
        forward(model.base_model, store, {0: ids[:10]})
        store.share(0)
        got = forward(model.base_model, store, {0: ids[10:12], 1: ids[10:]}).float()
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise _unsupported(model, source, error) from error
    cosine = functional.cosine_similarity(expected, got)
    if not bool((cosine > 0.99).all()):
        raise _unsupported(model, source, f"outputs differ, cosine {cosine.tolist()}")


def _unsupported(model: Any, source: str, got: object) -> EngineError:
    return EngineError(
        f"{type(model).__name__} is no decoder this engine can drive",
        where=source,
        got=got,
        expected="a causal model with plain attention (Llama, Qwen, SmolLM, Mistral, ...)",
        hint="serve it (vLLM, llama.cpp) and use engine = 'openai'",
    )
