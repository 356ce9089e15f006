from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from reland_features.engines.base import Request
from reland_features.engines.openai import OpenAIEngine
from reland_features.errors import ConfigError

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


def test_waits_as_long_as_the_server_asks(engine, llm_server, reply, pauses):
    llm_server.script = [reply(status=429, headers={"Retry-After": "7"}), reply(status=500)]
    assert engine.complete([ASK], {})[0].text == "hello"
    assert len(llm_server.requests) == 3
    assert 7 <= pauses[0] <= 7.5
    assert 1 <= pauses[1] <= 2  # the second pause of an exponential backoff with jitter


def test_reads_a_date_in_retry_after(engine, llm_server, reply, pauses):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    llm_server.script = [reply(status=503, headers={"Retry-After": later})]
    assert engine.complete([ASK], {})[0].text == "hello"
    assert 80 < pauses[0] < 102


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
