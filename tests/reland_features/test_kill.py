"""kill -9 in the middle of a job, again and again: no recorded call is ever made again.

"Zero calls repeated" means: a request whose answer is in the ledger never reaches the server again. What a kill may
lose is the batch that was in flight, since its answers were nowhere yet. The server, in this process, counts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from reland_features.config import Rationales
from reland_features.engines.base import Request
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.openai import OpenAIEngine
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.seed_requests import plan_requests
from reland_features.seed_tables import SeedTables

CALLS, KILLS, BATCH = 200, 5, 8
TEMPLATE = PromptTemplate.load("movies")
JOB = """
import sys
from pathlib import Path
import polars as pl
from reland_features.config import Rationales
from reland_features.engines import build
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rationales import generate
from reland_features.seed_tables import SeedTables

folder, settings = Path(sys.argv[1]), Rationales.model_validate_json(sys.argv[2])
tables = SeedTables(*(pl.read_parquet(folder / f"{name}.parquet") for name in ("seeds", "histories", "items", "seen")))
engine = build(settings, folder)
with Ledger(folder / "ledger.sqlite") as ledger:
    result = generate(tables, PromptTemplate.load("movies"), engine, ledger, settings)
engine.close()
assert (result.frame["status"] == "ok").all()
print(result.usage["calls"], result.usage["cached"], result.usage["total"]["calls"])
"""


@pytest.fixture
def tables(tmp_path) -> SeedTables:
    """200 users of two films each, no two with the same prompt."""
    ids = [f"f{n}" for n in range(CALLS + 20)]
    items = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"Film number {n} ({1800 + n})" for n in range(len(ids))],
            "categories": [[("Drama", "Comedy", "War")[n % 3]] for n in range(len(ids))],
            "interaction_count": [1] * len(ids),
        }
    )
    users = [f"u{n:03}" for n in range(CALLS)]
    histories = pl.DataFrame({"user_id": users, "item_ids": [[ids[n], ids[n + 1]] for n in range(CALLS)]})
    seeds = histories.select("user_id", cluster_id=pl.lit(0, pl.Int32), drawn_by=pl.lit("important"))
    made = {"seeds": seeds, "histories": histories, "items": items, "seen": histories}
    for name, table in made.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    return SeedTables(**made)


class Watched:
    """The job, the server that it asks, and the ledger that it writes."""

    def __init__(self, folder: Path, tables: SeedTables, server, completion, settings: Rationales) -> None:
        self._folder, self._server, self._settings = folder, server, settings
        twin = OpenAIEngine("twin", base_url=server.url)
        plan = plan_requests(tables, TEMPLATE, twin, settings)
        twin.close()
        self._key_of = {json.dumps(list(ask.request.messages)): ask.key for ask in plan.roots}
        assert len(self._key_of) == CALLS
        model, skeleton = DummyEngine(), TEMPLATE.skeleton((), 3, 3)

        def answer(body):
            request = Request(tuple(body["messages"]), skeleton, body["max_tokens"])
            made = model.complete([request], plan.options)[0]
            return type(completion(""))(completion(made.text).body, delay=0.01)

        server.answer = answer

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-c", JOB, str(self._folder), self._settings.model_dump_json()]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def asked(self) -> list[str]:
        """Return the keys of all requests that reached the server, in order."""
        return [self._key_of[json.dumps(body["messages"])] for body in list(self._server.requests)]

    def recorded(self) -> set[str]:
        with Ledger(self._folder / "ledger.sqlite") as ledger:
            return set(ledger.answers(self._key_of.values()))

    def kill_at(self, count: int, wait: float) -> None:
        """Start the job and kill -9 it some time after the server has seen so many requests in all."""
        job = self.start()
        while len(self._server.requests) < count:
            assert job.poll() is None, "the job ended before it could be killed"
            time.sleep(0.001)
        time.sleep(wait)
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        self.settle()

    def settle(self) -> None:
        """Wait until nothing reaches the server any more: what was sent before the kill still may.

        Workers on Ray outlive their driver for a moment, which is longer where other jobs take the processor.
        """
        seen = -1
        while seen != len(self._server.requests):
            seen = len(self._server.requests)
            time.sleep(2.0 if self._settings.ray else 0.2)


def kill_and_finish(watched: Watched, in_flight: int, generator: random.Random) -> tuple[int, int]:
    """Kill the job `KILLS` times and let it finish; return how often the server was asked, and repeated calls."""
    boundaries = []
    for _ in range(KILLS):
        asked = len(watched.asked())
        watched.kill_at(asked + generator.randint(4, 24), generator.uniform(0, 0.03))
        recorded, now = watched.recorded(), watched.asked()
        boundaries.append((len(now), recorded))
        assert len(now) - asked >= 4
        print(f"killed after {len(now)} calls in all: {len(recorded)} answers recorded")
    job = watched.start()
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0
    asked = watched.asked()
    repeated = sum(key in recorded for end, recorded in boundaries for key in asked[end:])
    assert len(watched.recorded()) == CALLS
    assert set(asked) == watched.recorded()
    calls, cached, total = map(int, output.split())
    assert (calls, cached, total) == (len(asked) - boundaries[-1][0], len(boundaries[-1][1]), CALLS)
    lost = len(asked) - CALLS
    print(
        f"{len(asked)} calls for {CALLS} answers: {lost} lost in flight at {KILLS} kills, {repeated} recorded repeated"
    )
    assert len(asked) <= CALLS + KILLS * in_flight
    return len(asked), repeated


@pytest.fixture
def settings(llm_server) -> dict:
    return {"engine": "openai", "model": "twin", "batch_size": BATCH, "options": {"base_url": llm_server.url}}


def test_five_kills_repeat_no_recorded_call(tmp_path, tables, llm_server, completion, settings):
    watched = Watched(tmp_path, tables, llm_server, completion, Rationales(**settings))
    _, repeated = kill_and_finish(watched, BATCH, random.Random(time.time_ns()))
    assert repeated == 0


@pytest.mark.slow
def test_five_kills_of_a_distributed_job_repeat_no_recorded_call(tmp_path, tables, llm_server, completion, settings):
    """The driver is killed; its workers go with it. Each worker may have a batch in flight and some that wait."""
    on_ray = Rationales(**settings, ray={"workers": 2, "cpus": 0.5})
    watched = Watched(tmp_path, tables, llm_server, completion, on_ray)
    _, repeated = kill_and_finish(watched, 8 * BATCH, random.Random(time.time_ns()))
    assert repeated == 0
