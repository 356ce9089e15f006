"""Settings of all tests: one thread per library, no telemetry, no skipped service in CI."""

from __future__ import annotations

import os

import pytest

from reland_features.process import silence_teardown

for name, value in {
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "FEAST_USAGE": "False",
}.items():
    os.environ.setdefault(name, value)

# Minutes each, as they run the main job: begun first (and --no-loadscope-reorder), so that workers end together.
LONGEST = (
    "tests/reland_features/test_pipeline.py",
    "tests/examples/test_examples.py",
    "tests/reland_features/test_llm_bill.py",
    "tests/reland_features/test_report.py",
    "tests/ranking/experiments/test_commands.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the longest files; a file's tests stay together and in order."""
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip for a missing server or browser into a failure where CI must have installed it."""
    report = yield
    if report.skipped and os.environ.get("RELAND_REQUIRE_SERVICES") and "not installed" in str(report.longrepr):
        report.outcome = "failed"
    return report


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Keep the summary the last thing printed: DuckDB's binding reports leaks while Python is torn down."""
    silence_teardown()
