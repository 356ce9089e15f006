"""The mapping to and from vLLM, with a stand-in for the package: it needs a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reland_features.config import Rationales
from reland_features.engines import build
from reland_features.engines.base import Request
from reland_features.engines.vllm import VLLMEngine
from reland_features.errors import ConfigError

from .conftest import OPTIONS, ask_about


def test_missing_vllm_is_said_before_anything_is_loaded(tiny_model):
    with pytest.raises(ConfigError) as caught:
        build(Rationales(engine="vllm", model=str(tiny_model)), tiny_model)
    assert "pip install 'reland-features[vllm]'" in caught.value.hint


def test_asks_with_prompt_tokens_and_one_set_of_parameters_per_request(tiny_model, fake_vllm):
    options = {"temperature": 0.2, "seed": 7, "llm": {"max_model_len": 1500}}
    settings = Rationales(engine="vllm", model=str(tiny_model), batch_size=8, options=options)
    engine = build(settings, tiny_model)
    assert engine.parameters == {"temperature": 0.2, "seed": 7, "skeleton": "json", "max_model_len": 1500}
    plain = Request(({"role": "user", "content": "Hello"},), max_tokens=9)
    shaped = ask_about("Film 1", max_tokens=99)
    engine.complete([plain, shaped], OPTIONS)
    (llm,) = (engine._llm,)
    assert (llm.model, llm.tokenizer, llm.dtype) == (str(tiny_model), str(tiny_model), "auto")
    ((first, second),) = llm.calls
    assert (first.max_tokens, first.temperature, first.seed, first.structured_outputs) == (9, 0.2, 7, None)
    assert (second.max_tokens, second.temperature) == (99, 0.2)
    assert list(second.structured_outputs.json["properties"])[1:] == [
        "categories_1", "categories_2", "items_1", "items_2",
    ]  # fmt: skip
    assert "Film 1" not in second.structured_outputs.json["$defs"]["items"]["enum"]
    assert engine.sends_schema  # ledger keys hold what is sent


def test_a_prompt_beyond_the_context_fails_alone(tiny_model, fake_vllm):
    engine = VLLMEngine(str(tiny_model), cache=tiny_model, llm={"max_model_len": 700})
    fine, long = engine.complete([ask_about("Film 1"), ask_about("Film " * 900)], OPTIONS)
    assert fine.error == ""
    assert "context of 700" in long.error
    assert long.prompt_tokens > 700


def test_thoughts_that_took_all_tokens_are_a_truncated_answer_and_no_failed_call(tiny_model, fake_vllm, monkeypatch):
    engine = VLLMEngine(str(tiny_model), cache=tiny_model)

    def without_text(llm, prompt, params):
        answer = SimpleNamespace(text="", token_ids=[1] * params.max_tokens, finish_reason="length")
        return SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[answer])

    monkeypatch.setattr(fake_vllm.LLM, "_answer", without_text)
    (answer,) = engine.complete([ask_about("Film 1", max_tokens=9)], OPTIONS)
    assert (answer.text, answer.completion_tokens, answer.finish_reason, answer.error) == ("", 9, "length", "")


def test_counting_loads_no_model(tiny_model, fake_vllm):
    engine = VLLMEngine(str(tiny_model), cache=tiny_model)
    counts = engine.count_tokens([ask_about("Film 1")])
    assert "_llm" not in engine.__dict__
    assert counts == [engine.complete([ask_about("Film 1")], OPTIONS)[0].prompt_tokens]
