"""What the engines' tests share: a tiny model, a stand-in for vLLM, and the question that all engines are asked."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from reland_features.engines.base import Request
from reland_features.prompts import HistoryItem, PromptTemplate

TITLES = tuple(f"Film {n}" for n in range(12))
OPTIONS = {"categories": ("Drama", "Comedy", "War"), "items": TITLES}
TEMPLATE = PromptTemplate.load("movies")


def ask_about(title: str, banned: frozenset[str] | None = None, **changes: Any) -> Request:
    """A prompt with one film in the history; its title is banned, or what is named."""
    messages = TEMPLATE.render([HistoryItem(title, ("Drama",))], 2, 2)
    return Request(messages, TEMPLATE.skeleton({title} if banned is None else banned, 2, 2), **changes)


def follow_schema(schema: dict[str, Any], seed: str) -> str:
    """A reply that follows a JSON schema of `engines.structured`: a deterministic model that is held to it."""
    reply = {}
    for position, (name, value) in enumerate(schema["properties"].items()):
        value = schema["$defs"][value["$ref"].removeprefix("#/$defs/")] if "$ref" in value else value
        number = int(hashlib.sha256(f"{seed} {position}".encode()).hexdigest(), 16)
        reply[name] = (
            value["enum"][number % len(value["enum"])] if "enum" in value else f"You prefer case {number % 97}"
        )
    return json.dumps(reply)


@pytest.fixture
def ask() -> Callable[..., Request]:
    return ask_about


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random Llama of two layers with a byte-level tokenizer of its own, as a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEMPLATE.system, TEMPLATE.user, *TITLES], trainer)
    folder = tmp_path_factory.mktemp("tiny-model")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass
class FakeSamplingParams:
    """The arguments of `vllm.SamplingParams` that the engine uses; any other is a TypeError, as in vLLM."""

    max_tokens: int = 16
    temperature: float = 1.0
    seed: int | None = None
    structured_outputs: Any = None


@dataclass
class FakeStructuredOutputsParams:
    json: dict[str, Any]


@dataclass
class FakeLLM:
    """`vllm.LLM` without a model: it tokenizes as the folder says and answers by hash."""

    model: str
    tokenizer: str
    dtype: str = "auto"
    max_model_len: int = 2048
    calls: list[list[FakeSamplingParams]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=self.max_model_len))

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[FakeSamplingParams], *, use_tqdm: bool = True
    ) -> list[Any]:
        assert not use_tqdm
        self.calls.append(sampling_params)
        return [self._answer(*pair) for pair in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt: dict[str, list[int]], params: FakeSamplingParams) -> Any:
        seed = str(prompt["prompt_token_ids"])
        shape = params.structured_outputs
        text = follow_schema(shape.json, seed) if shape else f"Answer {hashlib.md5(seed.encode()).hexdigest()}."
        tokens = self._tokenizer(text)["input_ids"]
        is_cut = len(tokens) > params.max_tokens
        kept = tokens[: params.max_tokens]
        text = self._tokenizer.decode(kept) if is_cut else text
        answer = SimpleNamespace(text=text, token_ids=kept, finish_reason="length" if is_cut else "stop")
        return SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[answer])


@pytest.fixture
def fake_vllm(monkeypatch) -> ModuleType:
    """Put a stand-in for the package vllm where imports find it."""
    package, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.__spec__ = ModuleSpec("vllm", None)
    package.LLM, package.SamplingParams = FakeLLM, FakeSamplingParams
    parameters.StructuredOutputsParams = FakeStructuredOutputsParams
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    return package
