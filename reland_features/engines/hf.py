"""The LLM on this machine: a transformers model, greedy, with answers held to their skeleton."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from reland_features.engines.base import Completion, Request
from reland_features.engines.chat import load_tokenizer, prompt_tokens
from reland_features.engines.constraint import Answer
from reland_features.engines.packed import KeyValues, adopt, forward
from reland_features.engines.vocabulary import Vocabulary
from reland_features.errors import EngineError
from reland_features.skeleton import Choice, Options
from reland_features.weights import adapter_hash, dense, quiet, resolve

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# oneDNN and its binding keep what they made for each shape they met, by default for a thousand: as many prompts have
# as many lengths, and that came to 9 GB for a model of 0.3. Read when the first kernel is made.
_KEPT_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
_SHARED_PREFIX = 16  # tokens; a shorter common beginning is not worth a pass of its own


class HFEngine:
    """Answer requests with a local model; greedy, so the same batch gets the same answers.

    Answers depend on the batch (rounding differs with its shape), on the number type and on the machine's
    kernels; `engine_id` names model and number type. Weights are loaded at the first answer.

    Parameters
    ----------
    model, revision : str, str or None
        See `weights.resolve`.
    batch_size : int
        Requests that a call should carry.
    cache : Path
        Where downloads and unpacked GGUF weights are kept.
    dtype : {"auto", "bfloat16", "float32"}
        ``auto`` is bfloat16 on a GPU and on CPUs with instructions for it, float32 elsewhere: without them
        bfloat16 is emulated, at about a quarter of the speed.
    device : str
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ...
    threads : int, optional
        CPU threads of this process; PyTorch's default where None.
    adapter : str, optional
        Folder of a LoRA adapter of peft (`reland tune`) that is merged into the weights; the hash of its weights
        is part of `engine_id`. In reland.toml name it by id, in ``rationales.adapter``.

    Raises
    ------
    ModelNotFoundError
        The weights are in none of the places looked at.
    EngineError
        Unknown `dtype`, a tokenizer or model that this engine cannot drive; also from the first call.
    """

    is_local = True

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        batch_size: int = 16,
        cache: Path,
        dtype: Literal["auto", "bfloat16", "float32"] = "auto",
        device: str = "auto",
        threads: int | None = None,
        adapter: str | None = None,
    ) -> None:
        if dtype not in ("auto", *DTYPES):
            raise EngineError("unknown dtype", got=dtype, expected="auto, bfloat16 or float32")
        self._weights = resolve(model, revision, cache)
        self._cache, self._threads = cache, threads
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        name = ("bfloat16" if _has_fast_bfloat16(self._device) else "float32") if dtype == "auto" else dtype
        self._dtype = DTYPES[name]
        self._adapter = adapter
        tuned = f"+{adapter_hash(Path(adapter))}" if adapter else ""
        self.engine_id = f"hf:{self._weights.id}{tuned}:{name}"
        self.source = self._weights.source
        self.batch_size = batch_size
        self.parameters: dict[str, Any] = {"decoding": "greedy", "skeleton": 1}

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Answer one batch; see `Engine`. A prompt that does not fit the context is a failed completion.

        Raises
        ------
        EngineError
            An option set is unknown or unusable, or the model cannot be driven: every request would fail.
        """
        for lead in ("", " "):
            for name in sorted({slot.options for r in requests for slot in r.skeleton if isinstance(slot, Choice)}):
                self._vocabulary.trie(name, options, lead)
        completions: dict[int, Completion] = {}
        prompts: dict[int, list[int]] = {}
        answers: dict[int, Answer] = {}
        for row, (request, prompt) in enumerate(zip(requests, self._prompts(requests), strict=True)):
            if len(prompt) + request.max_tokens > self._context:
                what = f"{len(prompt)} prompt + {request.max_tokens} answer tokens > context of {self._context}"
                completions[row] = Completion("", len(prompt), error=what)
                continue
            try:
                answers[row] = Answer(request.skeleton, options, self._vocabulary, request.max_tokens)
            except EngineError as error:
                completions[row] = Completion("", len(prompt), error=_one_line(error))
            else:
                prompts[row] = prompt
        errors = self._decode(prompts, answers)
        for row, answer in answers.items():
            counts = len(prompts[row]), len(answer.tokens)
            if row in errors:
                completions[row] = Completion("", *counts, error=errors[row])
            else:
                completions[row] = Completion(answer.text, *counts, finish_reason=answer.finish_reason)
        return [completions[row] for row in range(len(requests))]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return the number of prompt tokens of every request; needs the tokenizer only."""
        return [len(prompt) for prompt in self._prompts(requests)]

    def encode(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the prompt tokens of every request."""
        return self._prompts(requests)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer as skeletons see it."""
        return self._vocabulary

    def load(self) -> Any:
        """Load the weights anew, as transformers runs them; an adapter is merged into them."""
        path = dense(self._weights, "model", self._cache)
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=self._dtype, attn_implementation="sdpa")
            if self._adapter:
                model = require_peft().PeftModel.from_pretrained(model, self._adapter).merge_and_unload()
        return model.to(self._device)

    def close(self) -> None:
        """Free the model; the next call would load it again."""
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_masks", None)

    @torch.inference_mode()
    def _decode(self, prompts: dict[int, list[int]], answers: dict[int, Answer]) -> dict[int, str]:
        """Drive all answers to their end; return why some could not be."""
        errors: dict[int, str] = {}
        order = [row for row, answer in answers.items() if not answer.done]
        if not order:
            return errors
        capacity = max(len(prompts[row]) + answers[row].limit for row in order)
        store = KeyValues(len(order), capacity)
        body, head = self._model.base_model, self._model.get_output_embeddings().weight
        common = _common_prefix([prompts[row] for row in order]) if len(order) > 1 else 0
        if common >= _SHARED_PREFIX:
            forward(body, store, {0: prompts[order[0]][:common]})
            store.share(0)
        else:
            common = 0
        chunks = {n: prompts[row][common:] + answers[row].take() for n, row in enumerate(order)}
        # Prompts one by one: their activations stay in the processor's cache, and no one is padded.
        hidden = torch.cat([forward(body, store, {n: chunk}) for n, chunk in chunks.items()])
        active = list(chunks)
        while active:
            tokens = self._choose(hidden, head, [answers[order[n]] for n in active])
            for n, token in zip(active, tokens, strict=True):
                try:
                    answers[order[n]].accept(token)
                except EngineError as error:
                    errors[order[n]] = _one_line(error)
            active = [n for n in active if not answers[order[n]].done and order[n] not in errors]
            if active:
                hidden = forward(body, store, {n: answers[order[n]].take() for n in active})
        return errors

    def _choose(self, hidden: Tensor, head: Tensor, answers: Sequence[Answer]) -> list[int]:
        """Return each answer's most likely candidate; of equals the one with the lowest id.

        Only the logits that can be chosen are computed. Scaling and capping of logits are left out: they keep
        the order.
        """
        chosen = [0] * len(answers)
        whole = [n for n, answer in enumerate(answers) if isinstance(answer.candidates, str)]
        if whole:
            # head @ hidden reads the embedding matrix once in the order it lies; the other way is slower.
            logits = (head @ hidden[whole].T).T
            logits += torch.stack([self._masks[answers[n].candidates] for n in whole])  # type: ignore[index]
            for n, token in zip(whole, logits.argmax(1).tolist(), strict=True):
                chosen[n] = token
        for n, answer in enumerate(answers):
            if isinstance(answer.candidates, list):
                ids = torch.tensor(answer.candidates, device=head.device)
                chosen[n] = answer.candidates[int((head[ids] @ hidden[n]).argmax())]
        return chosen

    def _prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        return prompt_tokens(self._tokenizer, requests)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(dense(self._weights, "tokenizer", self._cache))

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer)

    @cached_property
    def _masks(self) -> dict[str, Tensor]:
        """Zero for the tokens of each named set, minus infinity for all others [vocabulary]."""
        size = self._model.get_output_embeddings().weight.shape[0]
        masks = {name: torch.full((size,), -torch.inf, dtype=self._dtype) for name in self._vocabulary.sets}
        for name, tokens in self._vocabulary.sets.items():
            masks[name][sorted(token for token in tokens if token < size)] = 0
        return {name: mask.to(self._device) for name, mask in masks.items()}

    @cached_property
    def _context(self) -> int:
        """Tokens that prompt and answer may have together."""
        config = AutoConfig.from_pretrained(dense(self._weights, "model", self._cache)).get_text_config()
        windows = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
        return min((int(window) for window in windows if window), default=1 << 30)

    @cached_property
    def _model(self) -> Any:
        for name, count in _KEPT_SHAPES.items():
            os.environ.setdefault(name, count)
        if self._threads:
            torch.set_num_threads(self._threads)
        model = self.load().eval().requires_grad_(False)
        adopt(model, self.source)
        return model


def require_peft() -> Any:
    """Import peft; raise `EngineError` where it is not installed."""
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise EngineError("adapters need peft", got=error, hint="pip install 'reland-features[tune]'") from error


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all prompts begin, leaving each at least one of its own."""
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((n for n in range(limit) if len({prompt[n] for prompt in prompts}) > 1), limit)


def _one_line(error: EngineError) -> str:
    return " ".join(str(error).split())
