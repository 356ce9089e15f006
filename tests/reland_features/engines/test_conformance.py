"""What every engine must do. A new engine adds a fixture parameter and nothing else."""

from __future__ import annotations

import pytest

from reland_features.artifacts import content_id
from reland_features.engines.base import Completion, Engine, Request
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.openai import OpenAIEngine
from reland_features.prompts import HistoryItem, PromptTemplate

TITLES = tuple(f"Film {n}" for n in range(12))
OPTIONS = {"categories": ("Drama", "Comedy", "War"), "items": TITLES}
TEMPLATE = PromptTemplate.load("movies")


def ask(title: str, **changes: object) -> Request:
    messages = TEMPLATE.render([HistoryItem(title, ("Drama",))], 2, 2)
    return Request(messages, TEMPLATE.skeleton({title}, 2, 2), **changes)


@pytest.fixture(params=["dummy", "openai"])
def engine(request, llm_server, completion):
    made: Engine
    if request.param == "dummy":
        made = DummyEngine(batch_size=4)
    else:
        # A server with a deterministic model behind it.
        twin = DummyEngine("behind the server")

        def answer(body):
            question = Request(tuple(body["messages"]), TEMPLATE.skeleton((), 2, 2), body["max_tokens"])
            return completion(twin.complete([question], OPTIONS)[0].text)

        llm_server.answer = answer
        made = OpenAIEngine("twin", base_url=llm_server.url, batch_size=4)
    yield made
    made.close()


def test_is_an_engine(engine):
    assert isinstance(engine, Engine)
    assert engine.engine_id
    assert engine.source
    assert engine.batch_size == 4


def test_parameters_can_be_part_of_a_key(engine):
    assert isinstance(engine.parameters, dict)
    assert content_id(engine.parameters)


def test_answers_one_for_one_in_order(engine):
    requests = [ask(title) for title in TITLES[:6]]
    together = engine.complete(requests, OPTIONS)
    assert [type(answer) for answer in together] == [Completion] * 6
    assert together == [engine.complete([request], OPTIONS)[0] for request in requests]


def test_answers_nothing_for_nothing(engine):
    assert engine.complete([], OPTIONS) == []
    assert engine.count_tokens([]) == []


def test_an_answer_has_text_or_an_error_and_counts_its_tokens(engine):
    (answer,) = engine.complete([ask("Film 1")], OPTIONS)
    assert bool(answer.text) != bool(answer.error)
    assert answer.prompt_tokens > 0
    assert answer.completion_tokens > 0


def test_counts_more_tokens_for_longer_prompts_without_answering(engine, llm_server):
    short, long = engine.count_tokens([ask("Film 1"), ask("Film 1 " * 40)])
    assert 0 < short < long
    assert llm_server.requests == []


def test_a_constrained_engine_keeps_to_the_skeleton(engine):
    if not getattr(engine, "constrained", True):
        pytest.skip("this engine does not enforce skeletons; its answers are validated after the fact")
    for title, answer in zip(TITLES, engine.complete([ask(t) for t in TITLES], OPTIONS), strict=True):
        lines = answer.text.splitlines()
        assert lines[0].startswith("Step 1: ")
        assert lines[1:3] == ["Step 2:", "Categories:"]
        assert lines[5] == "Movies:"
        assert {line.split(" ", 1)[1] for line in lines[3:5]} <= set(OPTIONS["categories"])
        assert {line.split(" ", 1)[1] for line in lines[6:8]} <= set(TITLES) - {title}
        assert len(set(lines)) == len(lines) == 8
