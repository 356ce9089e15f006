from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reland_features.errors import ArtifactError
from reland_features.ledger import Attempt, Ledger
from reland_features.ledger_keys import request_key, skeleton_id
from reland_features.skeleton import Choice, Fixed, Free
from reland_features.usage import EngineUsage, Usage

ROOT = Path(__file__).parents[2]
ANSWERED = Attempt(
    key="a",
    engine_id="dummy:x",
    prompt_id="generic-1",
    parameters="{}",
    seed_user_id="u1",
    status="ok",
    text="Step 1: naïve\n",
    finish_reason="stop",
    prompt_tokens=100,
    completion_tokens=20,
    error="",
    started_at="2024-01-01T00:00:00+00:00",
    seconds=0.5,
)
FAILED = replace(ANSWERED, key="b", status="failed", text="", error="HTTP 500", completion_tokens=0, seconds=2.0)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "state" / "ledger.sqlite") as opened:
        yield opened


def test_gives_back_what_was_recorded_after_reopening(ledger):
    ledger.record([ANSWERED, FAILED])
    ledger.close()
    with Ledger(ledger.path) as again:
        assert again.answers(["a", "b", "c"]) == {"a": ANSWERED}
        assert again.failures(["a", "b", "c"]) == {"b": FAILED}


def test_the_latest_answer_counts_and_a_later_failure_does_not(ledger):
    ledger.record([ANSWERED])
    ledger.record([replace(ANSWERED, text="newer"), replace(FAILED, key="a")])
    assert ledger.answers(["a"])["a"].text == "newer"


def test_counts_every_attempt_of_some_keys_or_of_all(ledger):
    ledger.record([ANSWERED, FAILED, FAILED])
    assert ledger.usage() == Usage(3, 2, 300, 20, 4.5)
    assert ledger.usage(["b", "b", "missing"]) == Usage(2, 2, 200, 0, 4.0)
    assert ledger.usage([]) == Usage()
    assert ledger.usage().total_tokens == 320
    assert ledger.usage().cost(prompt_price=2.0, completion_price=10.0) == pytest.approx((300 * 2 + 20 * 10) / 1e6)


def test_counts_by_engine_at_the_prices_last_noted(ledger):
    other = replace(ANSWERED, engine_id="openai:m", prompt_tokens=1_000_000, completion_tokens=500_000)
    ledger.record([ANSWERED, FAILED, other, replace(ANSWERED, engine_id="imported:someone:texts-1")])
    ledger.set_prices("openai:m", 1.0, 2.0)
    ledger.set_prices("openai:m", 3.0, 4.0)
    assert ledger.prices() == {"openai:m": (3.0, 4.0)}
    assert ledger.usage_by_engine() == [
        EngineUsage("dummy:x", Usage(2, 1, 200, 20, 2.5), 0.0),
        EngineUsage("openai:m", Usage(1, 0, 1_000_000, 500_000, 0.5), 5.0),
    ]


def test_gives_the_attempts_of_an_engine_prompt_or_seed_in_order(ledger):
    other = replace(ANSWERED, prompt_id="generic-2", seed_user_id="u2")
    ledger.record([ANSWERED, other, FAILED])
    assert ledger.attempts() == [(1, ANSWERED), (2, other), (3, FAILED)]
    assert ledger.attempts(engine_id="dummy:x", prompt_id="generic-1") == [(1, ANSWERED), (3, FAILED)]
    assert ledger.attempts(seed_user_id="u2") == [(2, other)]


def test_deletes_rows_and_gives_their_room_back(ledger):
    ledger.record([replace(ANSWERED, key=str(n), text="x" * 10_000) for n in range(100)])
    pages = ledger._connection.execute("pragma page_count").fetchone()[0]
    ledger.delete(range(2, 101))
    assert [attempt.key for _, attempt in ledger.attempts()] == ["0"]
    assert ledger._connection.execute("pragma page_count").fetchone()[0] < pages / 5


def test_opens_a_ledger_of_the_first_release(ledger):
    """It had no table of prices, and is of the same version: its answers stay valid."""
    ledger.record([ANSWERED])
    ledger._connection.execute("drop table prices")
    ledger.close()
    with Ledger(ledger.path) as again:
        assert again.prices() == {}
        assert again.answers(["a"]) == {"a": ANSWERED}


def test_looks_up_more_keys_than_sqlite_takes_variables(ledger):
    ledger.record([replace(ANSWERED, key=str(n)) for n in range(40_000)])
    assert len(ledger.answers(str(n) for n in range(39_000, 80_000))) == 1_000
    assert ledger.usage(str(n) for n in range(40_000)).calls == 40_000


def test_a_batch_is_recorded_completely_or_not_at_all(ledger):
    with pytest.raises(ArtifactError):
        ledger.record([ANSWERED, replace(ANSWERED, key="bad", status="perhaps")])
    assert ledger.usage().calls == 0
    ledger.record([ANSWERED])  # usable afterwards
    assert ledger.usage().calls == 1


def test_a_full_disk_is_an_error_that_keeps_what_was_recorded(ledger):
    ledger.record([ANSWERED])
    pages = ledger._connection.execute("pragma page_count").fetchone()[0]
    ledger._connection.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(ArtifactError, match="make room on the disk"):
        ledger.record([replace(ANSWERED, key=str(n), text="x" * 5_000) for n in range(20)])
    assert ledger.answers(["a", "0"]) == {"a": ANSWERED}


def test_survives_kill_9_between_and_within_batches(tmp_path):
    script = """
import sys
from pathlib import Path
from dataclasses import replace
from reland_features.ledger import Attempt, Ledger
one = Attempt("k", "e", "p", "{}", "u", "ok", "text", "stop", 1, 1, "", "2024-01-01", 0.1)
ledger = Ledger(Path(sys.argv[1]))
n = 0
while True:
    ledger.record([replace(one, key=f"{n}-{i}") for i in range(50)])
    print(n, flush=True)
    n += 1
"""
    path = tmp_path / "ledger.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout is not None
    while int(last := writer.stdout.readline()) < 20:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.communicate()[0].split()
    confirmed = int(rest[-1] if rest else last)
    with Ledger(path) as ledger:
        calls = ledger.usage().calls
        assert calls % 50 == 0
        assert calls >= (confirmed + 1) * 50
        ledger.record([ANSWERED])


def test_two_processes_write_the_same_ledger(ledger):
    with Ledger(ledger.path) as other:
        other.record([ANSWERED])
        ledger.record([FAILED])
        assert other.usage() == ledger.usage() == Usage(2, 1, 200, 20, 2.5)


def test_refuses_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("this is no database, but it is long enough to be read as a header by SQLite" * 20)
    with pytest.raises(ArtifactError, match="not a SQLite database"):
        Ledger(path)
    assert path.read_text().startswith("this is no database")


def test_refuses_another_database_and_another_version(tmp_path):
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("create table t (x)")
    connection.close()
    with pytest.raises(ArtifactError, match="another SQLite database"):
        Ledger(other)
    newer = tmp_path / "newer.sqlite"
    Ledger(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(ArtifactError, match=r"(?s)another version.*version 99"):
        Ledger(newer)


def test_says_when_the_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


class TestKey:
    MESSAGES = ({"role": "user", "content": "hello"},)

    def test_depends_on_everything_that_changes_an_answer(self):
        shape = skeleton_id((Fixed("1."), Free(5), Choice("items", frozenset({"x"}))), "options")
        base = ("e", self.MESSAGES, {"temperature": 0, "seed": 1}, 10, shape)
        keys = {
            request_key(*base),
            request_key("f", *base[1:]),
            request_key("e", ({"role": "user", "content": "bye"},), *base[2:]),
            request_key("e", self.MESSAGES, {"temperature": 1, "seed": 1}, 10, shape),
            request_key("e", self.MESSAGES, {"temperature": 0, "seed": 1}, 20, shape),
            request_key(*base[:4]),
            request_key(*base, attempt=2),
            request_key(*base[:4], skeleton_id((Fixed("1."), Free(5), Choice("items", frozenset({"y"}))), "options")),
            request_key(*base[:4], skeleton_id((Fixed("1."), Free(6), Choice("items", frozenset({"x"}))), "options")),
            request_key(*base[:4], skeleton_id((Fixed("1."), Free(5), Choice("items", frozenset({"x"}))), "others")),
        }
        assert len(keys) == 10

    def test_does_not_depend_on_the_order_of_parameters_or_banned_titles(self):
        titles = [f"title {n}" for n in range(20)]
        one, two = (skeleton_id((Choice("items", frozenset(t)),), "o") for t in (titles, titles[::-1]))
        assert request_key("e", self.MESSAGES, {"a": 1, "b": 2}, 1, one) == request_key(
            "e", self.MESSAGES, {"b": 2, "a": 1}, 1, two
        )

    def test_is_the_same_in_every_release(self):
        """Another key would pay for every answer again."""
        assert request_key("e", self.MESSAGES, {"t": 0}, 10, "s") == GOLDEN


GOLDEN = "8d7d186756cbca20e292158e06616277"
