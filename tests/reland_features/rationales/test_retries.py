"""`--retry-failed`, and answers that are read anew without being asked for."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from reland_features.engines.base import Completion
from reland_features.engines.dummy import DummyEngine
from reland_features.errors import TooManyFailuresError
from reland_features.prompts import PromptTemplate


def statuses(result) -> dict[str, int]:
    return dict(result.frame["status"].value_counts().iter_rows())


LOOSE = {"max_failed_fraction": 1.0}


class TestRetryFailed:
    def test_asks_failed_and_invalid_seeds_again_as_new_attempts(self, tables, ledger):
        engine = DummyEngine(outcomes=["error", "invalid", *["ok"] * 18, "error", "error"])
        first = tables.of(engine=engine, ledger=ledger, **LOOSE)
        assert statuses(first) == {"failed": 1, "invalid": 1, "ok": 18}
        again = DummyEngine()
        second = tables.of(engine=again, ledger=ledger, retry_failed=True, **LOOSE)
        assert (again.calls, statuses(second)) == (2, {"ok": 20})
        assert ledger.usage().calls == 22 + 2
        good = first.frame.filter(pl.col("status") == "ok")
        assert second.frame.join(good, on=good.columns, how="semi", nulls_equal=True).height == 18

    def test_a_greedy_engine_is_asked_once_more_per_retry(self, tables, ledger):
        tables.of(engine=DummyEngine(outcomes=["invalid"]), ledger=ledger, **LOOSE)
        for _ in range(2):
            stubborn = DummyEngine(outcomes=["invalid"] * 9)
            result = tables.of(engine=stubborn, ledger=ledger, retry_failed=True, **LOOSE)
            assert (stubborn.calls, statuses(result)) == (1, {"invalid": 1, "ok": 19})
        assert ledger.usage().calls == 22

    def test_a_sampling_engine_is_asked_as_often_as_in_a_first_run(self, tables, ledger):
        def sampling(outcomes):
            engine = DummyEngine(outcomes=outcomes)
            engine.parameters = {"temperature": 0.7}
            return engine

        tables.of(engine=sampling(["invalid", *["ok"] * 19, "invalid", "invalid"]), ledger=ledger, **LOOSE)
        assert ledger.usage().calls == 22
        quiet = sampling([])
        tables.of(engine=quiet, ledger=ledger, **LOOSE)
        assert quiet.calls == 0
        engine = sampling(["invalid", "invalid"])
        result = tables.of(engine=engine, ledger=ledger, retry_failed=True, **LOOSE)
        assert (engine.calls, statuses(result)) == (3, {"ok": 20})

    @pytest.mark.parametrize("outcome", ["invalid", "truncated"])
    def test_a_later_run_without_it_finds_the_better_answers(self, tables, ledger, outcome):
        engine = DummyEngine(outcomes=[outcome, *["ok"] * 19, *[outcome] * 2])
        tables.of(engine=engine, ledger=ledger, max_tokens=64, **LOOSE)
        retried = tables.of(engine=DummyEngine(), ledger=ledger, max_tokens=64, retry_failed=True, **LOOSE)
        assert statuses(retried) == {"ok": 20}
        quiet = DummyEngine()
        assert tables.of(engine=quiet, ledger=ledger, max_tokens=64, **LOOSE).frame.equals(retried.frame)
        assert quiet.calls == 0

    def test_asks_nothing_where_all_is_well(self, tables, ledger):
        tables.of(engine=DummyEngine(), ledger=ledger)
        engine = DummyEngine()
        tables.of(engine=engine, ledger=ledger, retry_failed=True)
        assert engine.calls == 0


class TestAdvice:
    """What the error says to do next is what helps, and the rest of what it says is so."""

    def test_unusable_answers_are_asked_for_by_retry_failed_alone(self, tables, ledger):
        def run(engine, **options):
            with pytest.raises(TooManyFailuresError) as caught:
                tables.of(engine=engine, ledger=ledger, **options)
            return caught.value.hint

        hint = run(DummyEngine(outcomes=["invalid"] * 4))
        assert hint.startswith("reland generate --retry-failed asks for these again; without it unusable answers are ")
        quiet = DummyEngine()
        assert run(quiet) == hint
        assert quiet.calls == 0  # a plain run, the same again, is no help
        engine = DummyEngine()
        assert statuses(tables.of(engine=engine, ledger=ledger, retry_failed=True)) == {"ok": 20}
        assert engine.calls == 4

    def test_one_unusable_answer_among_failed_calls_is_enough(self, tables, ledger):
        with pytest.raises(TooManyFailuresError) as caught:
            tables.of(engine=DummyEngine(outcomes=["invalid", "error", "error"]), ledger=ledger, max_attempts=1)
        assert "--retry-failed" in caught.value.hint

    def test_failed_calls_are_made_again_by_any_run(self, tables, ledger):
        with pytest.raises(TooManyFailuresError) as caught:
            tables.of(engine=DummyEngine(outcomes=["error"] * 4), ledger=ledger, max_attempts=1)
        assert "run again: usable answers are kept, only the failed calls are made again" in caught.value.hint
        engine = DummyEngine()
        assert statuses(tables.of(engine=engine, ledger=ledger)) == {"ok": 20}
        assert engine.calls == 4


def test_a_reader_that_understands_more_needs_no_call(tables, ledger):
    """The ledger keeps what came; whether it is usable is decided when it is read."""

    class Other(DummyEngine):  # writes "Films:" where the template says "Movies:"
        constrained = False

        def complete(self, requests, options):
            return [
                replace(answer, text=answer.text.replace("Movies:", "Kintopp:").replace("\n", " "))
                for answer in super().complete(requests, options)
            ]

    template = PromptTemplate.load("movies")
    first = tables.of(engine=Other(), ledger=ledger, template=template, max_failed_fraction=1.0)
    assert statuses(first) == {"invalid": 20}
    # The same prompt, read with another label: only the reader knows it.
    better = replace(template, labels={**template.labels, "items": "Kintopp:"})
    engine = Other()
    second = tables.of(engine=engine, ledger=ledger, template=better)
    assert (engine.calls, statuses(second)) == (0, {"ok": 20})


def test_a_greedy_engine_without_skeletons_is_told_what_was_wrong(tables, ledger):
    """Validate and retry: the second request shows the answer and names its problem; it has a row of its own."""

    class Corrigible(DummyEngine):
        constrained = False
        asked = ()

        def complete(self, requests, options):
            self.asked += tuple(requests)
            answers = super().complete(requests, options)
            bad = [len(request.messages) == 2 and "number 3 " in str(request.messages) for request in requests]
            return [replace(a, text="Step 1: Films.") if b else a for a, b in zip(answers, bad, strict=True)]

    engine = Corrigible()
    result = tables.of(engine=engine, ledger=ledger)
    assert statuses(result) == {"ok": 20}
    told = [request.messages for request in engine.asked if len(request.messages) > 2]
    assert len(told) == len(engine.asked) - 20 > 0
    for messages in told:
        assert messages[2] == {"role": "assistant", "content": "Step 1: Films."}
        assert messages[3]["content"].startswith("This answer cannot be used: no category of the catalogue; no title")
    assert ledger.usage().calls == len(engine.asked)
    again = Corrigible()
    assert tables.of(engine=again, ledger=ledger).frame.equals(result.frame)
    assert again.asked == ()


class Scripted:
    """An engine that samples, is held to no skeleton, and recommends the films of a script."""

    engine_id, source, batch_size, constrained = "scripted", "test", 4, False

    def __init__(self, *films):
        self.parameters, self.films, self.calls = {"temperature": 0.7}, list(films), 0

    def complete(self, requests, options):
        self.calls += len(requests)
        return [self.answer(self.films.pop(0)) for _ in requests]

    def answer(self, first):
        lines = [f"{n}. Film number {film} ({1950 + film})" for n, film in enumerate(range(first, first + 3), 1)]
        return Completion("Step 1: Films.\nStep 2:\nCategories: Drama; Comedy; War\nMovies:\n" + "\n".join(lines))

    def count_tokens(self, requests):
        return [10 for _ in requests]

    def close(self): ...


class TestSeedsOfOnePrompt:
    """Seeds whose prompt is the same, and whose older histories, not shown, are not: each bans other titles."""

    @pytest.fixture
    def shared(self, make_tables):
        tables, shown = make_tables(users=2), ["f1", "f2", "f3"]
        tables.histories = pl.DataFrame(
            {"user_id": ["a", "b"], "item_ids": [["f10", "f11", "f12", *shown], ["f30", "f31", "f32", *shown]]}
        )
        tables.seeds = tables.histories.select("user_id", cluster_id=pl.lit(0, pl.Int32), drawn_by=pl.lit("important"))

        def of(engine, ledger, **options):
            return tables.of(engine=engine, ledger=ledger, max_history=3, **LOOSE, **options)

        return of

    @pytest.mark.parametrize(("unusable", "first"), [("b", 30), ("a", 10)])
    def test_each_of_them_decides_whether_it_is_asked_again(self, shared, ledger, unusable, first):
        engine = Scripted(first, 20)
        result = shared(engine, ledger)
        assert (engine.calls, statuses(result)) == (2, {"ok": 2})
        items = dict(result.frame.select("seed_user_id", pl.col("items").list.first()).iter_rows())
        assert items.pop(unusable) == "Film number 20 (1970)"
        assert list(items.values()) == [f"Film number {first} ({1950 + first})"]  # the other keeps what it can use
        quiet = Scripted()
        assert shared(quiet, ledger).frame.equals(result.frame)
        assert quiet.calls == 0

    def test_no_answer_need_suit_them_all(self, shared, ledger):
        engine = Scripted(30, 10)  # the first for a alone, the second for b alone
        assert (statuses(shared(engine, ledger)), engine.calls) == ({"ok": 2}, 2)

    def test_what_stays_unusable_for_one_is_retried_for_it(self, shared, ledger):
        first = shared(Scripted(30, 30, 30), ledger)
        assert first.frame["status"].to_list() == ["ok", "invalid"]
        engine = Scripted(20)
        assert statuses(shared(engine, ledger, retry_failed=True)) == {"ok": 2}
        assert engine.calls == 1
