"""Learn a LoRA adapter from lessons, on one machine, in a way that survives a kill.

The loop is our own because the loss is: each decision is scored among what the engine would have offered at that
place, and nothing else is. Model, kernels and adapter are transformers' and peft's.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reland_features.artifacts import whole_file
from reland_features.config import Tuning
from reland_features.engines.hf import HFEngine, require_peft
from reland_features.tuning.tokens import Lesson

LOGGER = logging.getLogger(__name__)
_WARMUP = 0.1  # share of the steps over which the learning rate rises; it falls to zero over the others


@dataclass
class Training:
    """An adapter in the making: the model with it, and what each step gave.

    Parameters
    ----------
    model : peft model
        Base weights frozen, adapter weights learned.
    losses : list of float
        Mean loss per decision, in nats, by step.
    seconds : list of float
        Wall seconds by step.
    """

    model: Any
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The adapter's weights by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}


def learn(
    engine: HFEngine,
    lessons: Sequence[Lesson],
    settings: Tuning,
    seed: int,
    checkpoint: Path | None = None,
    *,
    steps: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Training:
    """Fit an adapter by AdamW; the same call goes on from the last checkpoint.

    Every random choice is made from `seed` and the number of the step, so a run that was killed and one that was
    not go through the same steps; on one CPU thread they end in the same weights.

    Parameters
    ----------
    engine : HFEngine
        Gives the base weights, their number type and device.
    lessons : sequence of Lesson
        At least one.
    settings : Tuning
        LoRA and optimizer.
    checkpoint : Path, optional
        File of adapter, optimizer and losses, replaced every `checkpoint_steps`; it must belong to the same lessons
        and settings. Without it nothing is kept.
    steps : int, optional
        Stop after so many steps, to time them.
    on_step : callable, optional
        Called with (steps done, steps) after every step.
    """
    torch.manual_seed(seed)  # the adapter's first weights
    # Without dropout: a resumed run needs no state of a random generator.
    training = Training(_with_adapter(engine.load(), settings).eval())
    optimizer = torch.optim.AdamW(training.weights.values(), weight_decay=0.0)
    if checkpoint and checkpoint.is_file():
        _restore(checkpoint, training, optimizer)
    masks = _masks(engine, training.model)
    total = steps_of(len(lessons), settings)
    for step, batch in enumerate(batches(lessons, settings, seed)):
        if step < len(training.losses):
            continue
        if step == steps:
            break
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, total)
        training.losses.append(_step(training.model, batch, masks, optimizer, settings.micro_batch_size))
        training.seconds.append(time.perf_counter() - started)
        if checkpoint and ((step + 1) % settings.checkpoint_steps == 0 or step + 1 == total):
            _keep(checkpoint, training, optimizer)
            recent = training.losses[-settings.checkpoint_steps :]
            LOGGER.info("step %d of %d: loss %.3f", step + 1, total, sum(recent) / len(recent))
        if on_step:
            on_step(step + 1, total)
    return training


def _with_adapter(model: Any, settings: Tuning) -> Any:
    """Put an untrained adapter beside every linear layer of the last `settings.layers` layers."""
    peft = require_peft()
    linear = {
        name.rpartition(".")[2] for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear)
    }
    depth = model.config.get_text_config().num_hidden_layers
    lora = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=sorted(linear),
        layers_to_transform=list(range(max(0, depth - (settings.layers or depth)), depth)),
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, lora)


def steps_of(lessons: int, settings: Tuning) -> int:
    """Return the number of optimizer steps."""
    return settings.epochs * -(-lessons // settings.batch_size)


def batches(lessons: Sequence[Lesson], settings: Tuning, seed: int) -> Iterator[list[Lesson]]:
    """Cut each epoch into batches of lessons of about one length, and go through them in random order."""
    size = settings.batch_size
    for epoch in range(settings.epochs):
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(lessons))
        order = order[np.argsort([len(lessons[n].tokens) for n in order], kind="stable")]
        starts = np.arange(0, len(order), size)
        for start in generator.permutation(starts):
            yield [lessons[n] for n in order[start : start + size]]


def lesson_loss(model: Any, lessons: Sequence[Lesson], masks: dict[str, Tensor]) -> Tensor:
    """Return the summed loss of all decisions, in nats: −log p(real token | what was on offer).

    Sequences are padded at their end. Attention is causal, so no real token sees the padding and no mask is needed;
    logits are computed for decisions only.
    """
    causal = model.get_base_model()
    head = causal.get_output_embeddings()
    device = head.weight.device
    width = max(len(lesson.tokens) for lesson in lessons)
    tokens = torch.zeros(len(lessons), width, dtype=torch.long)
    for row, lesson in enumerate(lessons):
        tokens[row, : len(lesson.tokens)] = torch.tensor(lesson.tokens)
    hidden = causal.base_model(input_ids=tokens.to(device), use_cache=False).last_hidden_state
    decisions = [(row, one) for row, lesson in enumerate(lessons) for one in lesson.decisions]
    rows = torch.tensor([row for row, _ in decisions], device=device)
    places = torch.tensor([one.position for _, one in decisions], device=device)
    logits = head(hidden[rows, places - 1]).float()
    offered = torch.stack([_offer(one.candidates, masks) for _, one in decisions])
    return functional.cross_entropy(logits + offered, tokens.to(device)[rows, places], reduction="sum")


def _step(
    model: nn.Module, batch: list[Lesson], masks: dict[str, Tensor], optimizer: torch.optim.Optimizer, micro: int
) -> float:
    """Take one step on a batch, its gradient summed over micro-batches; return its mean loss per decision."""
    count = sum(len(lesson.decisions) for lesson in batch)
    loss = 0.0
    for start in range(0, len(batch), micro):
        part = lesson_loss(model, batch[start : start + micro], masks) / count
        part.backward()
        loss += part.item()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def _masks(engine: HFEngine, model: Any) -> dict[str, Tensor]:
    """Zero for the tokens of each named set, minus infinity for all others [vocabulary]."""
    weight = model.get_base_model().get_output_embeddings().weight
    masks = {}
    for name, allowed in engine.vocabulary.sets.items():
        mask = torch.full((weight.shape[0],), -torch.inf)
        mask[sorted(token for token in allowed if token < weight.shape[0])] = 0
        masks[name] = mask.to(weight.device)
    return masks


def _offer(candidates: str | list[int], masks: dict[str, Tensor]) -> Tensor:
    if isinstance(candidates, str):
        return masks[candidates]
    mask = torch.full_like(masks["text"], -torch.inf)
    mask[candidates] = 0
    return mask


def _schedule(step: int, total: int) -> float:
    """Rise linearly over the first tenth of the steps, then fall linearly; never zero."""
    warmup = max(1, round(_WARMUP * total))
    return min((step + 1) / warmup, (total - step) / max(1, total - warmup))


def _keep(path: Path, training: Training, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint by the present state, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    state = {"optimizer": optimizer.state_dict(), "losses": training.losses, "seconds": training.seconds}
    torch.save({"weights": {name: w.detach() for name, w in training.weights.items()}, **state}, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _restore(path: Path, training: Training, optimizer: torch.optim.Optimizer) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, weight in training.weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    training.losses, training.seconds = state["losses"], state["seconds"]
    LOGGER.info("going on after step %d", len(training.losses))
