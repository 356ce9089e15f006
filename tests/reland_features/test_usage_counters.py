from __future__ import annotations

from dataclasses import replace

import pytest

from reland_features.ledger import Attempt, Ledger
from reland_features.usage import EngineUsage, Usage
from reland_features.usage_counters import UsageCounters, render

CALL = Attempt("k", "hf:m", "p", "{}", "u", "ok", "text", "stop", 100, 20, "", "2024-01-01T00:00:00+00:00", 0.5)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Read the exposition format as Prometheus does."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_is_what_prometheus_reads():
    found = samples(render("shop", [EngineUsage('openai:a "b"\\c', Usage(7, 2, 1_000, 200, 3.25), 0.0125)]))
    labels = ('engine=openai:a "b"\\c', "project=shop")
    assert found == {
        ("reland_llm_calls_total", *labels): 7,
        ("reland_llm_failed_total", *labels): 2,
        ("reland_llm_tokens_total", labels[0], "kind=completion", labels[1]): 200,
        ("reland_llm_tokens_total", labels[0], "kind=prompt", labels[1]): 1_000,
        ("reland_llm_cost_total", *labels): 0.0125,
        ("reland_llm_seconds_total", *labels): 3.25,
    }


def test_every_family_is_a_counter_with_help_even_before_the_first_call():
    lines = render("shop", []).splitlines()
    assert [line.split()[1] for line in lines] == ["HELP", "TYPE"] * 5
    assert all(line.endswith(" counter") for line in lines[1::2])


def test_counts_the_whole_ledger_and_never_shows_half_a_file(tmp_path):
    counters = UsageCounters(tmp_path / "metrics.prom", "shop")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.set_prices("hf:m", 1.0, 10.0)
        ledger.record(
            [CALL, replace(CALL, status="failed", completion_tokens=0), replace(CALL, engine_id="imported:x")]
        )
        counters.refresh(ledger)
        first = counters.path.read_text()
        ledger.record([CALL])
        counters.refresh(ledger)
        assert counters.path.read_text() == first  # it was written a moment ago
        counters.write(ledger)
    found = samples(counters.path.read_text())
    labels = ("engine=hf:m", "project=shop")
    assert found["reland_llm_calls_total", *labels] == 3
    assert found["reland_llm_failed_total", *labels] == 1
    assert found["reland_llm_cost_total", *labels] == pytest.approx((300 * 1 + 40 * 10) / 1e6)
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics.prom"]
    assert not [name for name in found if "imported" in str(name)]
