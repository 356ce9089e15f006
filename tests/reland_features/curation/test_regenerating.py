"""Ask again: one call, a key of its own, within the budget, and nothing paid is lost or paid twice."""

from __future__ import annotations

import sqlite3

import polars as pl
import pytest

from reland_features.curation import DECISIONS, read_decisions, regenerating
from reland_features.curation.editing import Desk
from reland_features.curation.regenerating import regenerate
from reland_features.engines.dummy import DummyEngine
from reland_features.errors import BudgetExceededError, PoolError
from reland_features.pool import ReasoningPool


def keys(toy) -> list[str]:
    with sqlite3.connect(toy.root / ".reland" / "ledger.sqlite") as connection:
        return [row[0] for row in connection.execute("select key from attempts order by id")]


@pytest.fixture
def seed(toy) -> str:
    return ReasoningPool.read(toy.build()["pool"].artifact.path).frame["seed_user_id"][0]


def summary(toy, seed: str) -> str:
    frame = ReasoningPool.read(toy.build()["pool"].artifact.path).frame
    return frame.filter(pl.col("seed_user_id") == seed)["summary"][0]


def test_a_second_answer_costs_one_call_with_a_new_key_and_takes_the_place_of_the_first(toy, seed):
    first, before = summary(toy, seed), keys(toy)
    made = regenerate(Desk.of(toy.open()), seed, "ann", "You repeat yourself.")
    assert made.calls == 1
    after = keys(toy)
    assert after[:-1] == before
    assert after[-1] not in before
    assert made.decision is not None
    assert (made.decision.action, made.decision.reason) == ("regenerate", "You repeat yourself.")
    assert summary(toy, seed) == made.decision.summary != first
    assert keys(toy) == after


def test_the_llm_is_told_its_answer_and_what_is_wrong_with_it(toy, seed, monkeypatch):
    asked = []
    answer = DummyEngine.complete
    monkeypatch.setattr(DummyEngine, "complete", lambda self, r, o: (asked.extend(r), answer(self, r, o))[1])
    desk = Desk.of(toy.open())
    regenerate(desk, seed, "ann", "Too vague.")
    (request,) = asked
    text = desk.generated(seed)["text"].strip()
    assert request.messages[-2:] == (
        {"role": "assistant", "content": text},
        {"role": "user", "content": "Too vague."},
    )


def test_an_unusable_answer_keeps_the_old_rationale_and_the_pool(toy, seed):
    version = toy.build()["pool"].artifact.id
    asked = len(keys(toy))
    settings = ('rationales.options.outcomes=["invalid"]',)
    made = regenerate(Desk.of(toy.open(*settings)), seed, "ann", "Too vague.")
    assert made.decision is None
    assert "no category of the catalogue" in made.reason
    assert len(keys(toy)) == asked + 1
    assert toy.build()["pool"].artifact.id == version
    (noted,) = read_decisions(toy.root / ".reland" / DECISIONS)
    assert noted.action == "unusable"


def test_a_failed_call_decides_nothing_and_the_same_request_may_be_made_again(toy, seed):
    made = regenerate(Desk.of(toy.open('rationales.options.outcomes=["error"]')), seed, "ann", "Too vague.")
    assert (made.decision, made.reason) == (None, "scripted failure")
    assert regenerate(Desk.of(toy.open()), seed, "ann", "Too vague.").decision is not None


def test_an_engine_that_would_answer_the_same_is_not_asked(toy, seed):
    before = keys(toy)
    with pytest.raises(PoolError, match="answer the same"):
        regenerate(Desk.of(toy.open()), seed, "ann")
    assert keys(toy) == before


def test_a_sampling_engine_needs_no_feedback_and_never_uses_a_key_twice(toy, seed, monkeypatch):
    build = regenerating.llm_engine

    def sampling(project):
        engine = build(project)
        engine.parameters = {"temperature": 0.7}
        return engine

    monkeypatch.setattr(regenerating, "llm_engine", sampling)
    for _ in range(3):
        assert regenerate(Desk.of(toy.open()), seed, "ann").decision is not None
    used = keys(toy)
    assert len(used) == len(set(used))
    assert len({d.ledger_key for d in read_decisions(toy.root / ".reland" / DECISIONS)}) == 3


@pytest.mark.parametrize("name", ["max_requests", "max_total_tokens", "max_cost"])
def test_the_budget_of_all_calls_is_checked_before_the_call(toy, seed, name):
    total = Desk.of(toy.open()).finished.rationales.manifest["usage"]["total"]
    spent = {
        "max_requests": total["calls"],
        "max_total_tokens": total["prompt_tokens"] + total["completion_tokens"],
        "max_cost": 1e-6 * (total["prompt_tokens"] + total["completion_tokens"]),
    }
    settings = (f"rationales.{name}={spent[name]}", "rationales.prompt_price=1", "rationales.completion_price=1")
    before = keys(toy)
    with pytest.raises(BudgetExceededError) as caught:
        regenerate(Desk.of(toy.open(*settings)), seed, "ann", "Too vague.")
    assert caught.value.where == f"rationales.{name}"
    assert keys(toy) == before


def test_an_earlier_second_answer_counts_against_the_budget(toy, seed):
    calls = Desk.of(toy.open()).finished.rationales.manifest["usage"]["total"]["calls"]
    settings = (f"rationales.max_requests={calls + 1}",)
    assert regenerate(Desk.of(toy.open(*settings)), seed, "ann", "Too vague.").calls == 1
    with pytest.raises(BudgetExceededError):
        regenerate(Desk.of(toy.open(*settings)), seed, "ann", "Still too vague.")


def test_an_answer_that_was_paid_before_a_kill_is_taken_without_another_call(toy, seed, monkeypatch):
    class KilledError(BaseException):
        pass

    def die(*rest, **named):
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(Desk, "record", die)
        regenerate(Desk.of(toy.open()), seed, "ann", "Too vague.")
    paid = keys(toy)
    made = regenerate(Desk.of(toy.open()), seed, "ann", "Too vague.")
    assert made.calls == 0
    assert made.decision is not None
    assert made.decision.ledger_key == paid[-1]
    assert keys(toy) == paid
