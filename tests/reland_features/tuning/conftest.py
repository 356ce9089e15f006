"""A model of a few thousand random weights with a tokenizer of bytes, and a tiny world of films."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reland_features.engines.hf import HFEngine
from reland_features.prompts import PromptTemplate

FILMS = {
    "i1": ("Alien (1979)", ["Horror", "Sci-Fi"]),
    "i2": ("Fargo (1996)", ["Crime", "Drama"]),
    "i3": ("Heat (1995)", ["Action", "Crime"]),
    "i4": ("Solaris (1972)", ["Drama", "Sci-Fi"]),
    "i5": ("Seven (1995)", ["Crime"]),
    "i6": ("Amélie (2001)", ["Comedy"]),
}


def make_model(folder: Path) -> Path:
    """Save a random Llama that reads and writes bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0} | {letter: n for n, letter in enumerate(alphabet, 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(model, tmp_path) -> HFEngine:
    return HFEngine(str(model), cache=tmp_path, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def items() -> pl.DataFrame:
    rows = [(item, title, names, 10 - n) for n, (item, (title, names)) in enumerate(FILMS.items())]
    return pl.DataFrame(rows, schema=["item_id", "title", "categories", "interaction_count"], orient="row")


@pytest.fixture(scope="session")
def template() -> PromptTemplate:
    return PromptTemplate.load("movies")


@pytest.fixture(scope="session")
def catalogue(items, template):
    return template.catalogue(items)
