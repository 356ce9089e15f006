from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from reland_features.engines.base import Completion, Request
from reland_features.engines.openai import OpenAIEngine
from reland_features.errors import ConfigError
from reland_features.skeleton import Choice, Fixed, Free

ASK = Request(({"role": "system", "content": "s" * 40}, {"role": "user", "content": "u" * 80}), max_tokens=77)
KEY = "sk-very-secret"


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def engine(llm_server, pauses, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = OpenAIEngine("m", base_url=llm_server.url, max_retries=3, timeout=0.5, sleep=pauses.append, batch_size=4)
    yield made
    made.close()


def test_sends_the_request_and_reads_answer_and_usage(engine, llm_server, completion):
    llm_server.script = [completion("Hi", usage={"prompt_tokens": 31, "completion_tokens": 2})]
    (answer,) = engine.complete([ASK], {})
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens, answer.finish_reason, answer.error) == (
        ("Hi", 31, 2, "stop", "")
    )
    (body,) = llm_server.requests
    assert body == {
        "path": "/v1/chat/completions",
        "model": "m",
        "temperature": 0.0,
        "messages": list(ASK.messages),
        "max_tokens": 77,
    }
    assert llm_server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_estimates_usage_where_the_server_gives_none(engine, llm_server, completion):
    llm_server.script = [completion("x" * 40)]
    (answer,) = engine.complete([ASK], {})
    assert (answer.prompt_tokens, answer.completion_tokens) == (engine.count_tokens([ASK])[0], 10)
    assert engine.count_tokens([ASK]) == [(40 + 80) // 4 + 2 * 4 + 3]


def test_characters_beyond_ascii_are_a_token_each_for_the_budget(engine, llm_server, completion):
    said = Request(({"role": "user", "content": "abcd" * 3 + "电影 Ελλάδα"},))
    assert engine.most_tokens([ASK]) == engine.count_tokens([ASK])  # English is guessed as before
    # 13 characters of ASCII and 8 others; what decides about prompts stays: their ledger keys hang on it.
    assert (engine.most_tokens([said]), engine.count_tokens([said])) == ([3 + 8 + 4 + 3], [21 // 4 + 4 + 3])
    llm_server.script = [completion("电影", usage=None)]
    answer = engine.complete([said], {})[0]
    assert (answer.prompt_tokens, answer.completion_tokens) == (18, 2)


def test_waits_as_long_as_the_server_asks(engine, llm_server, reply, pauses):
    llm_server.script = [reply(status=429, headers={"Retry-After": "7"}), reply(status=500)]
    assert engine.complete([ASK], {})[0].text == "hello"
    assert len(llm_server.requests) == 3
    assert 7 <= pauses[0] <= 8
    assert 0 <= pauses[1] <= 2  # the second pause of an exponential backoff with full jitter


def test_pauses_double_and_are_drawn_from_zero_up(llm_server, reply, pauses):
    engine = OpenAIEngine("m", base_url=llm_server.url, max_retries=3, sleep=pauses.append, concurrency=1)
    llm_server.answer = lambda body: reply(status=503)
    engine.complete([ASK] * 60, {})
    assert len(pauses) == 180
    for number, longest in enumerate((1.0, 2.0, 4.0)):
        drawn = pauses[number::3]
        assert 0 <= min(drawn) < 0.25 * longest
        assert 0.75 * longest < max(drawn) <= longest
    engine.close()


@pytest.mark.parametrize("asked", [{"Retry-After": "Sun, 09 Sep 2001 01:48:20 GMT"}, {"Retry-After": "100"}])
def test_reads_seconds_and_dates_in_retry_after(llm_server, reply, pauses, asked):
    now = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC).timestamp()
    engine = OpenAIEngine("m", base_url=llm_server.url, sleep=pauses.append, clock=lambda: now)
    llm_server.script = [reply(status=503, headers=asked)]
    assert engine.complete([ASK], {})[0].text == "hello"
    assert 100 <= pauses[0] <= 101
    engine.close()


def test_does_not_wait_for_an_hour(engine, llm_server, reply, pauses):
    llm_server.script = [reply(status=429, headers={"Retry-After": "3600"})]
    assert "asks to wait 3600 s" in engine.complete([ASK], {})[0].error
    assert pauses == []


def test_tries_again_after_timeouts_and_cut_connections(engine, llm_server, reply):
    llm_server.script = [reply(delay=1.0), reply(cut=True)]
    assert engine.complete([ASK], {})[0].text == "hello"
    assert len(llm_server.requests) == 3


def test_gives_up_after_max_retries(engine, llm_server, reply, pauses):
    llm_server.answer = lambda body: reply('{"error": {"message": "overloaded"}}', status=503)
    (answer,) = engine.complete([ASK], {})
    assert answer.error == "HTTP 503: overloaded (after 4 tries)"
    assert (len(llm_server.requests), len(pauses)) == (4, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_does_not_repeat_a_request_that_is_wrong(engine, llm_server, reply, status):
    llm_server.answer = lambda body: reply('{"error": {"message": "no such model"}}', status=status)
    assert engine.complete([ASK], {})[0].error == f"HTTP {status}: no such model"
    assert len(llm_server.requests) == 1


def test_does_not_repeat_without_quota(engine, llm_server, reply):
    body = '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    llm_server.answer = lambda _: reply(body, status=429)
    assert "insufficient_quota" in engine.complete([ASK], {})[0].error
    assert len(llm_server.requests) == 1


@pytest.mark.parametrize(
    "body", ['{"choices": [{"mess', "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', "<html>", ""]
)
def test_a_broken_body_is_a_failed_call(engine, llm_server, reply, body):
    llm_server.script = [reply(body)]
    (answer,) = engine.complete([ASK], {})
    assert "no chat completion" in answer.error
    assert answer.text == ""
    assert len(llm_server.requests) == 1


def test_a_truncated_answer_says_so_and_an_empty_one_is_an_error(engine, llm_server, completion):
    llm_server.script = [completion("Step 1: You", "length")]
    truncated = engine.complete([ASK], {})[0]
    assert (truncated.text, truncated.finish_reason, truncated.error) == ("Step 1: You", "length", "")
    llm_server.script = [completion(None, "length", {"prompt_tokens": 50, "completion_tokens": 64})]
    assert engine.complete([ASK], {})[0] == Completion("", 50, 64, "length")  # all tokens were thoughts
    llm_server.script = [completion(None, "content_filter")]
    assert engine.complete([ASK], {})[0].error == "the answer is empty (finish_reason content_filter)"


def test_answers_in_order_with_limited_concurrency(llm_server, completion):
    engine = OpenAIEngine("m", base_url=llm_server.url, concurrency=3)

    def answer(body):
        number = int(body["messages"][0]["content"])
        return type(completion(""))(completion(f"answer {number}").body, delay=0.02 * (number % 3))

    llm_server.answer = answer
    requests = [Request(({"role": "user", "content": str(n)},)) for n in range(12)]
    assert [c.text for c in engine.complete(requests, {})] == [f"answer {n}" for n in range(12)]
    assert 1 < llm_server.most_at_once <= 3
    engine.close()


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    engine = OpenAIEngine("m", base_url="http://127.0.0.1:9/v1", max_retries=1, sleep=lambda seconds: None)
    assert engine.complete([ASK], {})[0].error.startswith("ConnectError")
    engine.close()


def test_the_key_is_written_nowhere(engine, llm_server, reply, completion):
    llm_server.script = [reply(f'{{"error": {{"message": "wrong key {KEY}"}}}}', status=401)]
    error = engine.complete([ASK], {})[0].error
    assert error == "HTTP 401: wrong key ***"
    llm_server.script = [completion(f"your key is {KEY}")]
    assert KEY not in engine.complete([ASK], {})[0].text
    assert KEY not in repr((engine, engine.engine_id, engine.source, engine.parameters))


def test_a_password_in_the_address_is_not_shown(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    engine = OpenAIEngine("m", base_url="http://me:secret@127.0.0.1:9/v1/", max_retries=0)
    assert engine.source == "http://127.0.0.1:9/v1"
    assert "secret" not in engine.complete([ASK], {})[0].error
    engine.close()


def test_parameters_hold_all_that_changes_answers(llm_server):
    engine = OpenAIEngine("m", base_url=llm_server.url, temperature=0.7, seed=5, extra={"top_p": 0.9})
    assert engine.parameters == {"temperature": 0.7, "seed": 5, "top_p": 0.9}
    engine.complete([ASK], {})
    assert {key: llm_server.requests[0][key] for key in engine.parameters} == engine.parameters
    engine.close()


@pytest.mark.parametrize(
    "options", [{}, {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "MY_KEY"}, {"base_url": "127.0.0.1:9"}]
)
def test_says_what_is_missing_before_any_call(monkeypatch, options):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"export (OPENAI_API_KEY|MY_KEY)=|base_url ="):
        OpenAIEngine("m", **options)


class TestStructuredOutput:
    """Skeletons as JSON schemas, where the server is said to hold answers to them."""

    SHAPED = Request(
        ({"role": "user", "content": "u"},),
        (Fixed("Step 1: You prefer"), Free(8), Fixed("Step 2:\n1. "), Choice("films", frozenset("B")),
         Fixed("2. "), Choice("films", frozenset("B"))),
    )  # fmt: skip
    OPTIONS = MappingProxyType({"films": ("A", "B", "C")})
    REPLY = json.dumps({"step_1_you_prefer": "You prefer\n slow films", "films_1": "A", "films_2": "C"})
    TEXT = "Step 1: You prefer slow films\nStep 2:\n1. A\n2. C\n"

    @pytest.fixture
    def engine(self, llm_server):
        made = OpenAIEngine("m", base_url=llm_server.url, structured_output=True)
        yield made
        made.close()

    def test_sends_the_schema_and_lays_the_answer_out(self, engine, llm_server, completion):
        llm_server.script = [completion(self.REPLY)]
        assert engine.complete([self.SHAPED], self.OPTIONS)[0].text == self.TEXT
        assert engine.constrained
        assert llm_server.requests[0]["response_format"] == {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {
                        "step_1_you_prefer": {
                            "type": "string",
                            "description": "one line that continues: Step 1: You prefer",
                        },
                        "films_1": {"$ref": "#/$defs/films"},
                        "films_2": {"$ref": "#/$defs/films"},
                    },
                    "required": ["step_1_you_prefer", "films_1", "films_2"],
                    "additionalProperties": False,
                    "$defs": {"films": {"type": "string", "enum": ["A", "C"]}},
                },
            },
        }

    @pytest.mark.parametrize("reply", ["Step 1: You prefer ...", '{"films_1": "A"}', '{"step_1', "[]"])
    def test_a_reply_that_does_not_follow_it_is_kept_for_validation(self, engine, llm_server, completion, reply):
        llm_server.script = [completion(reply)]
        assert engine.complete([self.SHAPED], self.OPTIONS)[0].text == reply

    def test_a_refusal_is_an_answer_that_cannot_be_used(self, engine, llm_server, reply):
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        llm_server.script = [reply(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}))]
        (answer,) = engine.complete([self.SHAPED], self.OPTIONS)
        assert (answer.text, answer.error) == ("I cannot help with that.", "")

    def test_a_server_without_schemas_says_what_to_type(self, engine, llm_server, reply):
        llm_server.answer = lambda body: reply('{"error": {"message": "unknown field response_format"}}', status=400)
        (answer,) = engine.complete([self.SHAPED], self.OPTIONS)
        assert answer.error.startswith("HTTP 400: unknown field response_format")
        assert "structured_output = false" in answer.error
        assert len(llm_server.requests) == 1

    def test_a_large_catalogue_is_no_enumeration(self, engine, llm_server, completion):
        llm_server.script = [completion(self.REPLY)]
        engine.complete([self.SHAPED], {"films": tuple(f"Film {n}" for n in range(252))})
        schema = llm_server.requests[0]["response_format"]["json_schema"]["schema"]
        assert schema["$defs"] == {"films": {"type": "string"}}

    def test_without_a_skeleton_nothing_is_added(self, engine, llm_server):
        assert engine.complete([ASK], {})[0].text == "hello"
        assert "response_format" not in llm_server.requests[0]
