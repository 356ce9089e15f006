from __future__ import annotations

import pytest

from reland_features.engines.dummy import DummyEngine
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
