"""Ledger keys of engines that send a JSON schema: what is sent decides, and not the catalogue behind it."""

from __future__ import annotations

import json

import polars as pl
import pytest

from reland_features.config import Rationales
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.openai import OpenAIEngine
from reland_features.ledger_keys import request_key, skeleton_id
from reland_features.prompts import PromptTemplate
from reland_features.seed_requests import plan_requests

LOOSE = {"max_failed_fraction": 1.0}


class Schema(DummyEngine):
    """As an engine that holds answers to a JSON schema."""

    sends_schema = True


def with_new_item(tables):
    item = {"item_id": "new", "title": "A new film (2026)", "categories": ["Drama"], "interaction_count": 0}
    tables.items = pl.concat([tables.items, pl.DataFrame([item], schema=tables.items.schema)])
    return tables


def test_a_request_that_is_sent_as_before_is_not_paid_again(make_tables, ledger, llm_server, completion, monkeypatch):
    """A catalogue beyond what a schema can list: titles go out as free strings, and a new one changes no byte."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def answer(body):
        names = body["response_format"]["json_schema"]["schema"]["properties"]
        values = {name: "You like calm films." for name in names}
        for n, category in enumerate(("Drama", "Comedy", "War"), 1):
            values |= {f"items_{n}": f"Film number {290 + n} ({2240 + n})", f"categories_{n}": category}
        return completion(json.dumps({name: values[name] for name in names}))

    llm_server.answer = answer
    engine = OpenAIEngine("m", base_url=llm_server.url, structured_output=True)
    tables = make_tables(users=5, films=300)
    first = tables.of(engine=engine, ledger=ledger)
    bodies = list(llm_server.requests)
    assert len(bodies) == 5
    again = with_new_item(tables).of(engine=engine, ledger=ledger)
    engine.close()
    assert again.frame.equals(first.frame)
    assert llm_server.requests == bodies


def test_a_schema_that_lists_the_new_item_is_another_request(tables, ledger):
    tables.of(engine=Schema(), ledger=ledger)
    engine = Schema()
    with_new_item(tables).of(engine=engine, ledger=ledger)
    assert engine.calls == 20


def test_another_layout_of_the_answer_is_another_key(make_tables, ledger):
    """What is kept is the answer laid out in the template's words, which the schema does not hold."""
    tables, template = make_tables(films=300), PromptTemplate.load("movies")
    other = PromptTemplate(**(vars(template) | {"labels": {**template.labels, "items": "Films:"}}))
    settings = Rationales(engine="dummy")
    one, two = (plan_requests(tables.seed_tables, t, Schema(), settings) for t in (template, other))
    assert [ask.request.messages for ask in one.roots] == [ask.request.messages for ask in two.roots]
    assert not {ask.key for ask in one.roots} & {ask.key for ask in two.roots}


@pytest.mark.parametrize("outcomes", [[], ["invalid", "truncated"]])
def test_answers_of_an_earlier_release_are_found_with_what_was_asked_after_them(make_tables, ledger, outcomes):
    """Its keys held the catalogue; so do those of engines that decode here."""

    def sampling(kind, outcomes=()):
        engine = kind(outcomes=outcomes)
        engine.parameters = {"temperature": 0.7}
        return engine

    tables = make_tables(films=300)
    before = tables.of(engine=sampling(DummyEngine, outcomes), ledger=ledger, **LOOSE)
    spent = ledger.usage().calls
    engine = sampling(Schema)
    after = tables.of(engine=engine, ledger=ledger, **LOOSE)
    assert engine.calls == 0
    assert after.frame.equals(before.frame)
    assert (after.usage["calls"], after.usage["total"]["calls"], after.usage["cached"]) == (0, spent, 20)


def test_a_failed_call_of_an_earlier_release_is_made_again(make_tables, ledger):
    tables = make_tables(films=300)
    tables.of(engine=DummyEngine(outcomes=["error"] * 23), ledger=ledger, max_attempts=1, **LOOSE)
    engine = Schema()
    assert tables.of(engine=engine, ledger=ledger).frame["status"].unique().to_list() == ["ok"]
    assert engine.calls == 20


def test_an_engine_that_decodes_here_keeps_its_keys(tables):
    """There the options are enforced token by token: one more is another request."""
    engine, settings = DummyEngine(), Rationales(engine="dummy")
    plan = plan_requests(tables.seed_tables, PromptTemplate.load("movies"), engine, settings)
    for ask in plan.roots:
        shape = skeleton_id(ask.request.skeleton, plan.options_id)
        request = ask.request
        assert ask.keys == (
            request_key(engine.engine_id, request.messages, engine.parameters, request.max_tokens, shape),
        )


def test_seeds_that_share_a_request_share_what_an_earlier_release_paid_for_any_of_them(make_tables, ledger):
    """Their older histories differ: the titles that are banned were part of the key, but are no part of a schema."""
    tables = make_tables(users=2, films=300)
    shown = ["f1", "f2", "f3"]
    tables.histories = pl.DataFrame(
        {"user_id": ["a", "b"], "item_ids": [["f10", "f11", "f12", *shown], ["f30", "f31", "f32", *shown]]}
    )
    seeds = tables.histories.select("user_id", cluster_id=pl.lit(0, pl.Int32), drawn_by=pl.lit("important"))
    tables.seeds = seeds.filter(pl.col("user_id") == "b")
    tables.of(engine=DummyEngine(), ledger=ledger, max_history=3)
    tables.seeds, engine = seeds, Schema()
    frame = tables.of(engine=engine, ledger=ledger, max_history=3).frame
    assert (engine.calls, frame["ledger_key"].n_unique()) == (0, 1)
