"""What `generate` will take: within 10 % of what it then takes, and without a paid call."""

from __future__ import annotations

import random

import pytest

from reland_features.config import Rationales
from reland_features.engines.base import Completion
from reland_features.engines.dummy import DummyEngine
from reland_features.errors import BudgetExceededError
from reland_features.estimates import Amount, estimate
from reland_features.prompts import PromptTemplate

TEMPLATE = PromptTemplate.load("movies")


def look(tables, engine, ledger, **settings):
    options = Rationales(engine="dummy", **settings)
    return estimate(tables.seed_tables, TEMPLATE, engine, ledger, options)


def near(value: float) -> object:
    return pytest.approx(value, rel=0.1)


class CountingServer(DummyEngine):
    """Counts four tokens a word where the engine guesses one."""

    def complete(self, requests, options):
        answers = super().complete(requests, options)
        return [Completion(a.text, 4 * a.prompt_tokens, a.completion_tokens) for a in answers]


class Chatty(DummyEngine):
    """An engine on this machine whose answers differ in length, and that takes its time by the token."""

    is_local = True

    def complete(self, requests, options):
        answers = super().complete(requests, options)
        self.clock += 1.0 if self.calls == len(requests) else 0.0  # the first batch loads the model
        found = []
        for request, answer in zip(requests, answers, strict=True):
            extra = random.Random(request.messages[-1]["content"]).randrange(20)
            found.append(Completion(answer.text, answer.prompt_tokens, answer.completion_tokens + extra))
            self.clock += answer.prompt_tokens * 1e-3
        return found

    clock = 0.0


@pytest.fixture
def clock(monkeypatch):
    """Let the engine's own clock be the one that calls are timed by."""

    def of(engine):
        monkeypatch.setattr("reland_features.rounds.time.perf_counter", lambda: engine.clock)
        return engine

    return of


class TestPaidEngine:
    def test_is_not_called_and_says_how_it_guessed(self, tables, ledger):
        engine = DummyEngine()
        plan = look(tables, engine, ledger, prompt_price=2.0, completion_price=10.0)
        assert (engine.calls, ledger.usage().calls) == (0, 0)
        assert (plan.requests, plan.cached, plan.expected.calls) == (20, 0, 20)
        assert plan.expected.seconds is None
        assert plan.basis.startswith("no call yet: answers in the asked layout, names of median length, a Step 1 of 40")
        usage = tables.of(engine=engine, ledger=ledger).usage
        assert plan.expected.prompt_tokens == usage["prompt_tokens"]
        # 40 tokens of Step 1, three categories, three titles of three words, six numbers, eight words of labels
        assert plan.expected.completion_tokens == 20 * (40 + 3 + 9 + 6 + 8)
        expected = plan.expected
        assert expected.cost == pytest.approx((expected.prompt_tokens * 2 + expected.completion_tokens * 10) / 1e6)

    def test_with_history_is_judged_by_it(self, make_tables, ledger):
        tables = make_tables(users=60, films=80)
        engine = DummyEngine(batch_size=10)
        with pytest.raises(BudgetExceededError):
            tables.of(engine=engine, ledger=ledger, max_requests=30)
        plan = look(tables, engine, ledger)
        usage = tables.of(engine=engine, ledger=ledger).usage
        assert plan.basis == "30 calls of these requests in the ledger"
        assert (plan.cached, plan.expected.calls) == (usage["cached"], usage["calls"]) == (30, 30)
        assert plan.expected.prompt_tokens == usage["prompt_tokens"]
        assert plan.expected.completion_tokens == near(usage["completion_tokens"])
        assert plan.total.calls == usage["total"]["calls"] == 60
        assert plan.total.completion_tokens == near(usage["total"]["completion_tokens"])

    def test_other_seeds_of_the_same_prompt_are_history_too(self, make_tables, ledger):
        tables = make_tables(users=60, films=80)
        everyone = tables.seeds
        tables.seeds = everyone.head(30)
        tables.of(engine=DummyEngine(), ledger=ledger)
        tables.seeds = everyone.tail(30)
        plan = look(tables, DummyEngine(), ledger)
        usage = tables.of(engine=DummyEngine(), ledger=ledger).usage
        assert plan.basis == "30 calls of this engine and prompt in the ledger"
        assert plan.expected.prompt_tokens == usage["prompt_tokens"]
        assert plan.expected.completion_tokens == near(usage["completion_tokens"])

    def test_retries_are_expected_as_often_as_they_were_needed(self, make_tables, ledger):
        tables = make_tables(users=200, films=240)
        everyone, rng = tables.seeds, random.Random(0)

        def outcomes(count):
            return rng.choices(["ok", "error", "truncated"], weights=[7, 2, 1], k=count)

        tables.seeds = everyone.head(100)
        tables.of(engine=DummyEngine(outcomes=outcomes(300)), ledger=ledger, max_failed_fraction=1)
        tables.seeds = everyone.tail(100)
        plan = look(tables, DummyEngine(), ledger)
        usage = tables.of(engine=DummyEngine(outcomes=outcomes(300)), ledger=ledger, max_failed_fraction=1).usage
        assert usage["calls"] > 120
        assert plan.expected.calls == near(usage["calls"])
        assert plan.expected.prompt_tokens == near(usage["prompt_tokens"])
        assert plan.expected.completion_tokens == near(usage["completion_tokens"])

    def test_what_a_server_counts_puts_the_engine_s_own_count_right(self, make_tables, ledger):
        tables = make_tables(users=60, films=80)
        with pytest.raises(BudgetExceededError):
            tables.of(engine=CountingServer(batch_size=10), ledger=ledger, max_requests=30)
        plan = look(tables, CountingServer(), ledger)
        usage = tables.of(engine=CountingServer(), ledger=ledger).usage
        assert plan.expected.prompt_tokens == near(usage["prompt_tokens"])


class TestLocalEngine:
    @pytest.mark.parametrize("batch_size", [4, 16])
    def test_is_probed_and_the_run_takes_what_was_said(self, make_tables, ledger, clock, batch_size):
        tables = make_tables(users=120, history=5, films=200)
        engine = clock(Chatty(batch_size=batch_size))
        plan = look(tables, engine, ledger)
        asked = engine.calls
        assert asked == batch_size + max(16, 3 * batch_size)  # a batch loads the model; 16 prompts or three are timed
        assert plan.basis == f"a probe of {asked} prompts"
        assert (plan.cached, plan.expected.calls) == (asked, 120 - asked)
        usage = tables.of(engine=engine, ledger=ledger).usage
        assert engine.calls == 120  # the probe's answers are asked for once
        assert (usage["cached"], usage["calls"]) == (asked, 120 - asked)
        assert plan.expected.prompt_tokens == usage["prompt_tokens"]
        assert plan.expected.completion_tokens == near(usage["completion_tokens"])
        assert plan.expected.seconds == near(usage["seconds"])
        assert plan.total.seconds == near(usage["total"]["seconds"])

    def test_the_probe_asks_the_same_batches_as_a_run_without_it(self, make_tables, ledger, tmp_path):
        """A model's rounding depends on its batch: a dry run must not change an answer."""
        from reland_features.ledger import Ledger

        def recorded(engine):
            batches = []
            complete = engine.complete
            engine.complete = lambda requests, options: (
                batches.append([request.messages[-1]["content"] for request in requests]) or complete(requests, options)
            )
            return batches

        tables = make_tables(users=70, films=100)
        probed, plain = Chatty(batch_size=8), Chatty(batch_size=8)
        with_probe, without = recorded(probed), recorded(plain)
        look(tables, probed, ledger)
        frame = tables.of(engine=probed, ledger=ledger).frame
        with Ledger(tmp_path / "other.sqlite") as other:
            assert tables.of(engine=plain, ledger=other).frame.equals(frame)
        assert sorted(with_probe) == sorted(without)

    def test_is_not_probed_again_and_not_for_a_finished_run(self, tables, ledger):
        engine = Chatty(batch_size=4)
        first = look(tables, engine, ledger)
        calls = engine.calls
        assert look(tables, engine, ledger).expected == first.expected
        assert engine.calls == calls
        tables.of(engine=engine, ledger=ledger)
        done = look(tables, engine, ledger)
        assert engine.calls == 20
        assert (done.cached, done.expected) == (20, Amount(0, 0, 0, 0.0, 0.0))
        assert done.basis == "every request is answered in the ledger"


class TestAtMost:
    def test_every_answer_is_as_long_as_it_may_be_and_every_attempt_is_used(self, tables, ledger):
        plan = look(tables, DummyEngine(), ledger, max_tokens=100, prompt_price=1.0, completion_price=1.0)
        assert plan.at_most.calls == 60
        assert plan.at_most.prompt_tokens == 3 * plan.expected.prompt_tokens
        assert plan.at_most.completion_tokens == 20 * (100 + 200 + 400)
        assert plan.at_most.cost == pytest.approx((plan.at_most.prompt_tokens + 14_000) / 1e6)

    @pytest.mark.parametrize("truncated_first", [0, 1, 2, 3])
    @pytest.mark.parametrize("is_told_names", [True, False], ids=["names", "nothing"])
    def test_an_engine_that_is_told_takes_no_more(self, tables, ledger, truncated_first, is_told_names):
        """Every answer as long as it may be and of no use, told after so many that were truncated."""

        class Told(DummyEngine):
            constrained = False

            def complete(self, requests, options):
                return [self.answer(request) for request in requests]

            def answer(self, request):
                (prompt_tokens,) = self.count_tokens([request])
                said = len(request.messages) - 2
                is_cut = request.max_tokens < 64 << truncated_first and not said
                words = " unheard" * (request.max_tokens // 5 - 1)
                text = (
                    "Movies:" + "".join(f"\n{n}{words}" for n in "ABCDE")
                    if is_told_names
                    else " 0" * request.max_tokens
                )
                return Completion(text, prompt_tokens, request.max_tokens, "length" if is_cut else "stop")

        settings = {"max_attempts": 5, "max_tokens": 64, "prompt_price": 1.0, "completion_price": 2.0}
        at_most = look(tables, Told(), ledger, **settings).at_most
        usage = tables.of(engine=Told(), ledger=ledger, max_failed_fraction=1.0, **settings).usage
        assert usage["calls"] == at_most.calls == 100
        # A bound that is of use: no answer is as long as it may be and told and truncated.
        assert 0.2 * at_most.prompt_tokens < usage["prompt_tokens"] <= at_most.prompt_tokens
        assert usage["completion_tokens"] <= at_most.completion_tokens
        assert usage["cost"] <= at_most.cost

    def test_a_server_that_counts_more_is_believed(self, make_tables, ledger):
        tables = make_tables(users=60, films=80)
        with pytest.raises(BudgetExceededError):
            tables.of(engine=CountingServer(batch_size=10), ledger=ledger, max_requests=30)
        at_most = look(tables, CountingServer(), ledger, max_attempts=1).at_most
        usage = tables.of(engine=CountingServer(), ledger=ledger, max_attempts=1).usage
        assert 0 < usage["prompt_tokens"] <= at_most.prompt_tokens

    def test_the_budget_bounds_it_and_what_is_spent_counts(self, tables, ledger):
        engine = DummyEngine(batch_size=4)
        with pytest.raises(BudgetExceededError):
            tables.of(engine=engine, ledger=ledger, max_requests=8)
        plan = look(tables, engine, ledger, max_requests=30, max_total_tokens=3_000, max_cost=1.0, prompt_price=1.0)
        spent = ledger.usage()
        assert plan.at_most.calls == 22
        assert plan.at_most.prompt_tokens <= 3_000 - spent.total_tokens
        assert plan.at_most.cost <= 1.0


def test_no_seeds_take_nothing(tables, ledger):
    tables.seeds = tables.seeds.clear()
    plan = look(tables, DummyEngine(), ledger)
    assert (plan.requests, plan.expected) == (0, Amount(0, 0, 0, 0.0, 0.0))


def test_is_json_with_hours(tables, ledger):
    with pytest.raises(BudgetExceededError):
        tables.of(engine=DummyEngine(batch_size=4, delay=0.01), ledger=ledger, max_requests=16)
    said = look(tables, DummyEngine(), ledger).as_dict()
    assert set(said) == {"requests", "cached", "expected", "at_most", "total", "basis"}
    assert said["expected"]["seconds"] > 0
    assert said["expected"]["hours"] == pytest.approx(said["expected"]["seconds"] / 3600, abs=1e-4)
