from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from reland_features.columns import RATIONALES
from reland_features.config import Rationales
from reland_features.engines.base import Completion
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.openai import OpenAIEngine
from reland_features.errors import TableError, TooManyFailuresError
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rationales import generate
from reland_features.seed_requests import histories_of_seeds

TEMPLATE = PromptTemplate.load("movies")
GENRES = ("Drama", "Comedy", "War", "Western")


def test_every_seed_gets_a_grounded_rationale(tables, ledger):
    frame = tables.of(engine=DummyEngine(batch_size=4), ledger=ledger).frame
    assert frame.schema == RATIONALES.polars_schema()
    assert frame["seed_user_id"].to_list() == tables.seeds["user_id"].to_list()
    assert frame["status"].to_list() == ["ok"] * 20
    titles = dict(zip(tables.items["item_id"], tables.items["title"], strict=True))
    seen = {u: {titles[i] for i in ids} for u, ids in tables.histories.select("user_id", "item_ids").iter_rows()}
    for row in frame.iter_rows(named=True):
        assert len(set(row["items"])) == 3
        assert set(row["items"]) <= set(titles.values()) - seen[row["seed_user_id"]]
        assert len(set(row["categories"])) == 3
        assert set(row["categories"]) <= set(GENRES)
        assert row["reason"] is None
        assert ledger.answers([row["ledger_key"]])[row["ledger_key"]].text == row["text"]


def test_a_second_run_asks_nothing_and_gives_the_same(tables, ledger):
    first = tables.of(engine=DummyEngine(), ledger=ledger)
    engine = DummyEngine()
    second = tables.of(engine=engine, ledger=ledger)
    assert second.frame.equals(first.frame)
    assert engine.calls == 0
    assert (second.usage["calls"], second.usage["cached"], second.usage["total"]["calls"]) == (0, 20, 20)


def test_counts_calls_tokens_and_cost(tables, ledger):
    result = tables.of(engine=DummyEngine(), ledger=ledger, prompt_price=2.0, completion_price=10.0)
    prompt, answer = result.frame["prompt_tokens"].sum(), result.frame["completion_tokens"].sum()
    assert result.usage["calls"] == 20
    assert (result.usage["prompt_tokens"], result.usage["completion_tokens"]) == (prompt, answer)
    assert result.usage["cost"] == pytest.approx((2 * prompt + 10 * answer) / 1e6)


def test_seeds_with_the_same_prompt_are_asked_once(tables, ledger):
    tables.histories = tables.histories.with_columns(
        item_ids=pl.when(pl.col("user_id") < "u05").then(pl.lit(["f1", "f2"])).otherwise("item_ids")
    )
    engine = DummyEngine()
    frame = tables.of(engine=engine, ledger=ledger).frame
    assert engine.calls == 16
    assert frame.head(5).drop("seed_user_id").unique().height == 1
    assert frame["status"].to_list() == ["ok"] * 20


def test_batches_do_not_depend_on_what_is_answered(tables, ledger, tmp_path):
    """A model's rounding depends on its batch: a run after a kill sends the same whole batches."""

    class Recording(DummyEngine):
        def complete(self, requests, options):
            batches.append([request.messages[-1]["content"] for request in requests])
            return super().complete(requests, options)

    class Killed(Recording):
        def complete(self, requests, options):
            if len(batches) == 2:
                raise KeyboardInterrupt
            return super().complete(requests, options)

    batches: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        tables.of(engine=Killed(batch_size=6), ledger=ledger)
    resumed = tables.of(engine=Recording(batch_size=6), ledger=ledger)
    interrupted, batches = batches, []
    with Ledger(tmp_path / "other.sqlite") as other:
        undisturbed = tables.of(engine=Recording(batch_size=6), ledger=other)
    assert interrupted == batches
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    assert [len(b[0].split()) for b in batches] == sorted(len(b[0].split()) for b in batches)
    assert resumed.frame.equals(undisturbed.frame)


class TestFailures:
    def test_a_failed_call_is_made_again_in_a_later_round(self, tables, ledger):
        engine = DummyEngine(outcomes=["error"] * 3)
        result = tables.of(engine=engine, ledger=ledger)
        assert result.frame["status"].to_list() == ["ok"] * 20
        assert (engine.calls, result.usage["failed"]) == (23, 3)

    def test_what_keeps_failing_is_said_after_everything_is_saved(self, tables, ledger):
        engine = DummyEngine(batch_size=2, outcomes=["ok"] * 10 + ["error"] * 100)
        with pytest.raises(TooManyFailuresError, match=r"(?s)10 of 20 seed users.*scripted failure.*5.0%"):
            tables.of(engine=engine, ledger=ledger, max_attempts=2)
        assert ledger.usage().calls == 30
        again = DummyEngine()
        assert tables.of(engine=again, ledger=ledger).frame["status"].to_list() == ["ok"] * 20
        assert again.calls == 10

    def test_few_failures_stay_rows_without_a_rationale(self, tables, ledger):
        engine = DummyEngine(outcomes=["error", "invalid"])
        frame = tables.of(engine=engine, ledger=ledger, max_failed_fraction=0.1, max_attempts=1).frame
        bad = frame.filter(pl.col("status") != "ok").sort("status")
        assert bad["status"].to_list() == ["failed", "invalid"]
        failed, invalid = bad.iter_rows(named=True)
        assert (failed["reason"], failed["text"], failed["summary"], failed["items"]) == (
            "scripted failure", None, None, None,
        )  # fmt: skip
        assert invalid["text"] == "I cannot help with that.\n"
        assert "no title of the catalogue" in invalid["reason"]

    def test_a_truncated_answer_is_asked_for_with_more_tokens(self, tables, ledger):
        class Asked(DummyEngine):
            def complete(self, requests, options):
                limits.extend(request.max_tokens for request in requests)
                return super().complete(requests, options)

        limits: list[int] = []
        result = tables.of(engine=Asked(outcomes=["truncated"] * 2), ledger=ledger, max_tokens=100)
        assert result.frame["status"].to_list() == ["ok"] * 20
        assert limits == [100] * 20 + [200] * 2
        again = DummyEngine()
        assert tables.of(engine=again, ledger=ledger, max_tokens=100).frame.equals(result.frame)
        assert again.calls == 0

    def test_thoughts_that_took_all_tokens_are_a_truncated_answer(self, tables, ledger, llm_server, completion):
        """A reasoning model: no text and finish_reason "length" until it has room for thoughts and answer."""
        good = "Step 1: You like films.\nStep 2:\nCategories: Drama\nMovies:\n1. Film number 39"

        def answer(enough):
            def reply(body):
                usage = {"prompt_tokens": 50, "completion_tokens": min(body["max_tokens"], 90)}
                is_cut = body["max_tokens"] < enough
                return completion(None if is_cut else good, "length" if is_cut else "stop", usage)

            return reply

        def generate():
            engine = OpenAIEngine("thinker", base_url=llm_server.url, concurrency=1)
            try:
                return tables.of(engine=engine, ledger=ledger, max_tokens=64, max_failed_fraction=1.0)
            finally:
                engine.close()

        tables.seeds = tables.seeds.head(2)
        llm_server.answer = answer(enough=128)
        result = generate()
        assert result.frame["status"].to_list() == ["ok", "ok"]
        assert [body["max_tokens"] for body in llm_server.requests] == [64, 64, 128, 128]
        assert result.usage["failed"] == 0
        assert [(a.status, a.text, a.finish_reason, a.completion_tokens) for _, a in ledger.attempts()][:2] == [
            ("ok", "", "length", 64)
        ] * 2
        assert generate().frame.equals(result.frame)
        assert len(llm_server.requests) == 4
        # What never ends is asked for with ever more tokens, `max_attempts` times, and by no later run.
        tables.seeds = tables.histories.select("user_id").tail(1)
        llm_server.answer = answer(enough=10_000)
        (row,) = generate().frame.iter_rows(named=True)
        assert (row["status"], row["reason"]) == (
            "invalid", "the answer is truncated after 90 tokens; the answer is empty",
        )  # fmt: skip
        assert [body["max_tokens"] for body in llm_server.requests][4:] == [64, 128, 256]
        generate()
        assert len(llm_server.requests) == 7

    def test_an_unusable_answer_is_asked_for_again_only_where_the_engine_samples(self, tables, ledger):
        greedy = DummyEngine(outcomes=["invalid"])
        tables.of(engine=greedy, ledger=ledger, max_failed_fraction=0.05)
        assert greedy.calls == 20
        sampling = DummyEngine(outcomes=["invalid"])
        sampling.parameters = {"temperature": 0.7}
        result = tables.of(engine=sampling, ledger=ledger)
        assert sampling.calls == 21
        assert result.frame["status"].to_list() == ["ok"] * 20
        again = DummyEngine()
        again.parameters = {"temperature": 0.7}
        assert tables.of(engine=again, ledger=ledger).frame.equals(result.frame)
        assert again.calls == 0

    def test_an_engine_that_never_answers_is_given_up(self, make_tables, ledger):
        engine = DummyEngine(batch_size=4, outcomes=["error"] * 1_000)
        with pytest.raises(TooManyFailuresError, match="scripted failure"):
            make_tables(users=200, films=60).of(engine=engine, ledger=ledger)
        assert engine.calls == 24


class TestOddTables:
    def test_a_seed_without_a_history_is_an_error_before_any_call(self, tables, ledger):
        tables.histories = tables.histories.filter(pl.col("user_id") != "u03")
        engine = DummyEngine()
        with pytest.raises(TableError, match="u03"):
            tables.of(engine=engine, ledger=ledger)
        assert engine.calls == 0

    def test_a_history_of_unknown_items_fails_and_one_of_everything_is_invalid(self, tables, ledger):
        everything = tables.items["item_id"].to_list()
        tables.histories = tables.histories.with_columns(
            item_ids=pl.when(pl.col("user_id") == "u00")
            .then(pl.lit(["gone"]))
            .when(pl.col("user_id") == "u01")
            .then(pl.lit(everything))
            .otherwise("item_ids")
        )
        engine = DummyEngine()
        frame = tables.of(engine=engine, ledger=ledger, max_failed_fraction=0.1).frame
        assert frame["status"].to_list() == ["failed", "invalid", *["ok"] * 18]
        assert frame["reason"].to_list()[:2] == [
            "no item of the history is in the items table",
            "every title of the catalogue is in the history",
        ]
        assert engine.calls == 18

    def test_a_catalogue_without_categories_gives_items_only(self, tables, ledger):
        tables.items = tables.items.with_columns(categories=pl.lit([], pl.List(pl.String)))
        frame = tables.of(engine=DummyEngine(), ledger=ledger).frame
        assert frame["status"].to_list() == ["ok"] * 20
        assert set(frame["categories"].list.len()) == {0}
        assert set(frame["items"].list.len()) == {3}

    def test_fewer_titles_than_asked_for_give_fewer_slots(self, make_tables, ledger):
        frame = make_tables(users=3, history=6, films=10).of(engine=DummyEngine(), ledger=ledger, items=8).frame
        assert frame["items"].list.len().to_list() == [4, 3, 2]

    def test_no_seeds_give_no_rows(self, tables, ledger):
        tables.seeds = tables.seeds.clear()
        frame = tables.of(engine=DummyEngine(), ledger=ledger).frame
        assert (frame.height, frame.schema) == (0, RATIONALES.polars_schema())

    def test_shows_the_last_items_and_bans_all(self, tables):
        found = histories_of_seeds(tables.seed_tables, TEMPLATE.catalogue(tables.items), 2)
        assert [item.title for item in found["u00"].shown] == ["Film number 4", "Film number 5"]
        assert found["u00"].shown[0].categories == ("Drama", "Comedy")
        assert found["u00"].banned == {f"Film number {n} ({1950 + n})" for n in range(6)}

    def test_bans_what_is_older_than_the_table_of_histories(self, tables, ledger):
        # `data.max_history` cuts histories; what was seen before is no recommendation either.
        recent = tables.histories.with_columns(pl.col("item_ids").list.tail(2))
        cut = replace(tables.seed_tables, histories=recent)
        found = histories_of_seeds(cut, TEMPLATE.catalogue(tables.items), 20)
        assert [item.title for item in found["u00"].shown] == ["Film number 4", "Film number 5"]
        assert found["u00"].banned == {f"Film number {n} ({1950 + n})" for n in range(6)}
        tables.histories = recent
        loose = tables.of(engine=DummyEngine(), ledger=ledger).frame
        strict = generate(cut, TEMPLATE, DummyEngine(), ledger, Rationales(engine="dummy")).frame
        titles = dict(tables.items.select("item_id", "title").iter_rows())
        seen = {user: {titles[i] for i in items} for user, items in cut.seen.iter_rows()}

        def repeats(frame):
            return sum(bool(seen[user] & set(items)) for user, items in frame.select("seed_user_id", "items").rows())

        assert repeats(loose) > 0
        assert repeats(strict) == 0


def test_reports_progress_up_to_the_end(tables, ledger):
    seen: list[tuple[int, int]] = []
    engine = DummyEngine(batch_size=8, outcomes=["error"])
    tables.of(engine=engine, ledger=ledger, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(7, 20), (15, 20), (19, 20), (20, 20)]


def test_keys_do_not_depend_on_the_catalogue_where_skeletons_are_not_enforced(tables, ledger):
    class Free(DummyEngine):
        constrained = False

    tables.of(engine=Free(), ledger=ledger)
    extra = tables.items.head(1).with_columns(item_id=pl.lit("new"), title=pl.lit("A new film (2024)"))
    tables.items = pl.concat([tables.items, extra])
    engine, constrained = Free(), DummyEngine()
    tables.of(engine=engine, ledger=ledger)
    assert engine.calls == 0
    tables.of(engine=constrained, ledger=ledger)
    assert constrained.calls == 20


def test_a_server_with_bad_days(tables, ledger, llm_server, reply, completion, monkeypatch):
    """429 with Retry-After, 500, a timeout, a broken body, a truncated answer and a 400 along the way."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    good = "Step 1: You like films.\nStep 2:\nCategories: Drama\nMovies:\n1. Film number 39\n2. Film number 38"
    llm_server.script = [
        reply(status=429, headers={"Retry-After": "1"}),
        reply(status=500),
        reply(delay=1.0),
        reply('{"choices": [{"mess'),
        completion("Step 1: You li", "length", {"prompt_tokens": 50, "completion_tokens": 64}),
        reply('{"error": {"message": "bad request"}}', status=400),
    ]
    llm_server.answer = lambda body: completion(good, usage={"prompt_tokens": 50, "completion_tokens": 30})
    pauses: list[float] = []
    engine = OpenAIEngine("m", base_url=llm_server.url, batch_size=4, timeout=0.4, sleep=pauses.append, concurrency=1)
    result = tables.of(engine=engine, ledger=ledger, max_tokens=64, max_failed_fraction=0.2, max_requests=30)
    engine.close()
    assert result.frame["status"].to_list().count("ok") >= 16  # some have seen both films
    assert result.usage["failed"] == 2  # the broken body and the 400; overload and timeouts were waited out
    assert len(pauses) == 3
    assert {a.error.split(":")[0] for a in ledger.failures(result.frame["ledger_key"]).values()} == {
        "the server's answer is no chat completion (JSONDecodeError)",
        "HTTP 400",
    }
    calls = result.usage["calls"]
    invalid = result.frame["status"].to_list().count("invalid")
    # Two failures and one truncated answer asked for again; the unusable ones told twice what is wrong with them.
    assert calls == 20 + 2 + 1 + 2 * invalid
    sent = len(llm_server.requests)
    assert sent == calls + 3
    again = OpenAIEngine("m", base_url=llm_server.url)
    second = tables.of(engine=again, ledger=ledger, max_tokens=64, max_failed_fraction=0.2)
    again.close()
    assert second.frame.equals(result.frame)
    assert len(llm_server.requests) == sent


def test_a_failed_row_is_never_an_empty_feature(tables, ledger):
    class Empty(DummyEngine):
        def complete(self, requests, options):
            return [Completion("") for _ in requests]

    frame = tables.of(engine=Empty(), ledger=ledger, max_failed_fraction=1.0).frame
    assert frame["status"].to_list() == ["invalid"] * 20
    assert set(frame["reason"]) == {"the answer is empty"}
