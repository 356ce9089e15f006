from __future__ import annotations

import polars as pl
import pytest

from reland_features.engines.base import Completion
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.openai import OpenAIEngine
from reland_features.errors import BudgetExceededError


class TestBudget:
    @pytest.mark.parametrize(
        ("limits", "name"),
        [
            ({"max_requests": 10}, "max_requests"),
            ({"max_total_tokens": 2_500}, "max_total_tokens"),
            ({"max_cost": 0.0025, "prompt_price": 1.0, "completion_price": 1.0}, "max_cost"),
        ],
    )
    def test_stops_before_the_batch_that_might_pass_it(self, tables, ledger, limits, name):
        engine = DummyEngine(batch_size=4)
        with pytest.raises(BudgetExceededError, match=rf"(?s)kept.*rationales\.{name}.*--set rationales\.{name}=N"):
            tables.of(engine=engine, ledger=ledger, **limits)
        spent = ledger.usage()
        assert 0 < spent.calls == engine.calls < 20
        assert spent.calls <= limits.get("max_requests", 20)
        assert spent.total_tokens <= limits.get("max_total_tokens", 10**9)
        assert spent.cost(1.0, 1.0) <= limits.get("max_cost", 10**9)

    def test_counts_what_earlier_runs_spent_and_goes_on_with_more(self, tables, ledger):
        for _ in range(2):
            with pytest.raises(BudgetExceededError):
                tables.of(engine=DummyEngine(batch_size=4), ledger=ledger, max_requests=10)
            assert ledger.usage().calls == 8
        engine = DummyEngine(batch_size=4)
        result = tables.of(engine=engine, ledger=ledger, max_requests=20)
        assert (engine.calls, result.usage["cached"], result.usage["total"]["calls"]) == (12, 8, 20)

    def test_a_finished_run_needs_no_budget(self, tables, ledger):
        tables.of(engine=DummyEngine(), ledger=ledger)
        assert tables.of(engine=DummyEngine(), ledger=ledger, max_requests=1).usage["calls"] == 0


class TestCountsThatAreGuesses:
    """An engine without the model's tokenizer: the server counts otherwise, and its count is what is paid."""

    def test_a_script_of_a_token_a_character_stays_within_the_budget(self, tables, ledger, llm_server, completion):
        def reply(body):
            text = "".join(message["content"] for message in body["messages"])
            n_ascii = sum(map(str.isascii, text))
            prompt = n_ascii // 4 + len(text) - n_ascii
            return completion("步骤", usage={"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]})

        title = pl.concat_str(pl.lit("电影的名字很长" * 8), pl.col("title").str.extract(r"(\d+)"))
        tables.items = tables.items.with_columns(title=title)
        llm_server.answer = reply
        for limit, calls in ((1_500, 0), (4_000, 4)):  # four prompts take some 2,000 tokens
            engine = OpenAIEngine("m", base_url=llm_server.url, batch_size=4)
            with pytest.raises(BudgetExceededError):
                tables.of(engine=engine, ledger=ledger, max_tokens=16, max_total_tokens=limit)
            engine.close()
            assert len(llm_server.requests) == ledger.usage().calls == calls
            assert ledger.usage().total_tokens <= limit

    @pytest.mark.parametrize("limits", [{"max_total_tokens": 9_000}, {"max_cost": 0.009}])
    def test_a_count_that_was_too_low_is_not_believed_again(self, tables, ledger, limits):
        class Server(DummyEngine):  # counts three tokens a word where the engine guesses one
            def complete(self, requests, options):
                answers = super().complete(requests, options)
                return [Completion(a.text, 3 * a.prompt_tokens, 100) for a in answers]

        settings = {"max_tokens": 100, "prompt_price": 1.0, "completion_price": 1.0, **limits}
        for _ in range(2):  # a second run knows from the ledger what the first one learned
            with pytest.raises(BudgetExceededError):
                tables.of(engine=Server(batch_size=2), ledger=ledger, **settings)
            spent = ledger.usage()
            assert spent.calls >= 8
            assert spent.total_tokens <= 9_000
