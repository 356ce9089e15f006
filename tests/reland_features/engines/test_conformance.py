"""What a caller relies on, of every engine. A new engine adds a maker and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reland_features.engines.base import Completion, Engine, Request, StreamingEngine, answer_batches
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.hf import HFEngine
from reland_features.engines.openai import OpenAIEngine
from reland_features.engines.ray import RayEngine
from reland_features.engines.vllm import VLLMEngine

from .conftest import OPTIONS, TEMPLATE, TITLES, ask_about, follow_schema

RAY = pytest.mark.slow
ENGINES = ["dummy", "openai", "openai with schemas", "hf", "vllm"]
ON_RAY = ["ray around dummy", "ray around hf"]
ALL = [*ENGINES, *(pytest.param(name, marks=RAY) for name in ON_RAY)]

# What only some promise.
ANSWERS_ALONE_AS_IN_A_BATCH = {"dummy", "openai", "openai with schemas", "vllm", "ray around dummy"}
CHOOSES_NO_OPTION_TWICE = {"dummy", "hf", "ray around dummy", "ray around hf"}
ESTIMATES_PROMPT_TOKENS = {"openai", "openai with schemas"}


def serve_dummy(server: Any, completion: Callable[..., Any], reply: type) -> None:
    """Put a deterministic model behind the server: it follows schemas, reads the prompt, and refuses a bad request."""
    twin = DummyEngine("behind the server")

    def answer(body: dict[str, Any]) -> Any:
        content = body["messages"][-1]["content"]
        if "BAD" in content:
            return reply('{"error": {"message": "bad request"}}', status=400)
        shape = body.get("response_format")
        if shape and body["max_tokens"] > 20:
            text = follow_schema(shape["json_schema"]["schema"], content)
            return completion(text, usage={"prompt_tokens": 99, "completion_tokens": len(text.split())})
        question = Request(tuple(body["messages"]), TEMPLATE.skeleton((), 2, 2), body["max_tokens"])
        made = twin.complete([question], OPTIONS)[0]
        usage = {"prompt_tokens": 99, "completion_tokens": made.completion_tokens}
        return completion(made.text, made.finish_reason, usage)

    server.answer = answer


@pytest.fixture(scope="module")
def on_ray(tiny_model: Path):
    """Engines on one local Ray, which starts with the first and goes when the module is done."""
    makers = {
        "ray around dummy": partial(DummyEngine, batch_size=4),
        "ray around hf": partial(HFEngine, str(tiny_model), batch_size=4, cache=tiny_model, dtype="float32"),
    }
    made = {name: RayEngine(make, workers=2, cpus=0.5) for name, make in makers.items()}
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture
def make(request, llm_server, completion, reply) -> Callable[[str], Engine]:
    """Return what makes an engine by name."""

    def made(name: str) -> Engine:
        if name in ON_RAY:
            return request.getfixturevalue("on_ray")[name]
        if name == "dummy":
            return DummyEngine(batch_size=4)
        if name.startswith("openai"):
            serve_dummy(llm_server, completion, reply)
            return OpenAIEngine("twin", base_url=llm_server.url, batch_size=4, structured_output="schemas" in name)
        folder = request.getfixturevalue("tiny_model")
        if name == "hf":
            return HFEngine(str(folder), batch_size=4, cache=folder, dtype="float32", device="cpu", threads=1)
        request.getfixturevalue("fake_vllm")
        return VLLMEngine(str(folder), batch_size=4, cache=folder, dtype="float32")

    return made


@pytest.fixture(params=ALL)
def name(request) -> str:
    return request.param


@pytest.fixture
def engine(name, make):
    made = make(name)
    yield made
    if name not in ON_RAY:
        made.close()


def test_is_an_engine_whose_identity_is_stable_and_can_be_part_of_a_key(engine, name, make):
    assert isinstance(engine, Engine)
    assert engine.engine_id
    assert engine.source
    assert engine.batch_size == 4
    assert json.loads(json.dumps(engine.parameters)) == engine.parameters
    again = make(name)
    assert (again.engine_id, again.parameters) == (engine.engine_id, engine.parameters)


def test_answers_every_request_in_order_and_the_same_again(engine, name):
    requests = [ask_about(title) for title in TITLES[:6]]
    answers = engine.complete(requests, OPTIONS)
    assert [type(answer) for answer in answers] == [Completion] * 6
    assert [answer.error for answer in answers] == [""] * 6
    assert engine.complete(requests, OPTIONS) == answers
    if name in ANSWERS_ALONE_AS_IN_A_BATCH:
        assert engine.complete(requests[4:5], OPTIONS) == answers[4:5]
        assert engine.complete(requests[::-1], OPTIONS) == answers[::-1]


def test_answers_nothing_for_nothing(engine):
    assert engine.complete([], OPTIONS) == []
    assert engine.count_tokens([]) == []


def test_an_answer_has_a_text_a_reason_to_end_and_its_tokens(engine, name):
    (answer,) = engine.complete([ask_about("Film 1")], OPTIONS)
    assert answer.text.strip()
    assert (answer.error, answer.finish_reason) == ("", "stop")
    assert answer.completion_tokens > 0
    assert answer.prompt_tokens > 0
    if name not in ESTIMATES_PROMPT_TOKENS:
        assert answer.prompt_tokens == engine.count_tokens([ask_about("Film 1")])[0]


def test_an_answer_is_never_longer_than_max_tokens(engine):
    short, whole = engine.complete([ask_about("Film 1", max_tokens=6), ask_about("Film 1")], OPTIONS)
    assert (short.error, short.finish_reason, short.completion_tokens) == ("", "length", 6)
    assert len(short.text) < len(whole.text)
    assert whole.finish_reason == "stop"


def test_counts_more_tokens_for_longer_prompts_without_answering(engine, llm_server):
    short, long = engine.count_tokens([ask_about("Film 1"), ask_about("Film 1 " * 40)])
    assert 0 < short < long
    assert llm_server.requests == []


def test_keeps_to_the_skeleton_where_it_says_so(engine, name):
    if not getattr(engine, "constrained", True):
        pytest.skip("this engine does not enforce skeletons; its answers are validated after the fact")
    for title, answer in zip(TITLES, engine.complete([ask_about(t) for t in TITLES], OPTIONS), strict=True):
        lines = answer.text.splitlines()
        assert lines[0].startswith("Step 1: You prefer ")
        assert lines[1:3] == ["Step 2:", "Categories:"]
        assert lines[5] == "Movies:"
        assert [line.split(" ", 1)[0] for line in (*lines[3:5], *lines[6:])] == ["1.", "2.", "1.", "2."]
        assert {line.split(" ", 1)[1] for line in lines[3:5]} <= set(OPTIONS["categories"])
        assert {line.split(" ", 1)[1] for line in lines[6:8]} <= set(TITLES) - {title}
        assert len(lines) == 8
        if name in CHOOSES_NO_OPTION_TWICE:
            assert len(set(lines)) == 8


def test_a_failing_request_is_a_completion_with_an_error_and_harms_no_other(engine):
    fine = [ask_about(title) for title in TITLES[:2]]
    bad = ask_about("BAD", banned=frozenset(TITLES))  # nothing is left to choose, and the server refuses it
    first, failed, second = engine.complete([fine[0], bad, fine[1]], OPTIONS)
    assert failed.error
    assert failed.text == ""
    assert "\n" not in failed.error
    assert [first.error, second.error] == ["", ""]
    assert first.text.strip()
    assert second.text.strip()


def test_batches_are_answered_as_they_are_alone(engine):
    batches = [[ask_about(title) for title in TITLES[n : n + 4]] for n in (0, 4, 8)]
    found = dict(answer_batches(engine, batches, OPTIONS))
    assert found == {number: engine.complete(batch, OPTIONS) for number, batch in enumerate(batches)}


@pytest.mark.parametrize("name", ENGINES)
def test_closing_twice_is_fine(name, make):
    engine = make(name)
    engine.complete([ask_about("Film 1")], OPTIONS)
    engine.close()
    engine.close()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("dummy", {"model": "other"}),
        ("openai", {"model": "other"}),
        ("openai", {"temperature": 0.5}),
        ("openai", {"seed": 1}),
        ("openai", {"extra": {"top_p": 0.5}}),
        ("openai", {"structured_output": True}),
        ("hf", {"dtype": "bfloat16"}),
        ("vllm", {"dtype": "bfloat16"}),
        ("vllm", {"temperature": 0.5}),
        ("vllm", {"seed": 1}),
        ("vllm", {"llm": {"quantization": "fp8"}}),
    ],
)
def test_the_identity_changes_with_what_changes_answers(kind, changes, tiny_model, fake_vllm):
    plain: dict[str, Any] = {"model": "m"}
    if kind == "openai":
        plain["base_url"] = "http://127.0.0.1:9/v1"
    elif kind != "dummy":
        plain = {"model": str(tiny_model), "cache": tiny_model, "dtype": "float32"}
    maker: Any = {"dummy": DummyEngine, "openai": OpenAIEngine, "hf": HFEngine, "vllm": VLLMEngine}[kind]
    one, same, other = maker(**plain), maker(**plain), maker(**{**plain, **changes})
    assert (one.engine_id, one.parameters) == (same.engine_id, same.parameters)
    assert (one.engine_id, one.parameters) != (other.engine_id, other.parameters)
    for engine in (one, same, other):
        engine.close()


def test_other_weights_are_another_engine(tiny_model, tmp_path, fake_vllm):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    for maker in (HFEngine, VLLMEngine):
        ids = {maker(str(folder), cache=tmp_path, dtype="float32").engine_id for folder in (tiny_model, other)}
        assert len(ids) == 2


def test_only_ray_streams(make):
    assert not isinstance(DummyEngine(), StreamingEngine)
    assert isinstance(RayEngine(DummyEngine, workers=1), StreamingEngine)
