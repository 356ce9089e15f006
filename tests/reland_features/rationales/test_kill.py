from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from reland_features.engines.dummy import DummyEngine
from reland_features.ledger import Ledger

ROOT = Path(__file__).parents[3]
WORKER = """
import sys
from pathlib import Path
import polars as pl
from reland_features.config import Rationales
from reland_features.engines.dummy import DummyEngine
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rationales import generate
from reland_features.seed_tables import SeedTables

folder, delay = Path(sys.argv[1]), float(sys.argv[2])

class Logging(DummyEngine):
    def complete(self, requests, options):
        answers = super().complete(requests, options)
        with open(folder / "calls.log", "a") as log:  # an answer is paid once the engine gives it
            log.writelines(f"{request.messages[-1]['content']!r}\\n" for request in requests)
        return answers

tables = SeedTables(*(pl.read_parquet(folder / f"{name}.parquet") for name in ("seeds", "histories", "items", "seen")))
with Ledger(folder / "ledger.sqlite") as ledger:
    result = generate(
        tables, PromptTemplate.load("movies"), Logging(batch_size=2, delay=delay), ledger, Rationales(engine="dummy")
    )
result.frame.write_parquet(folder / "rationales.parquet")
"""


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_pays_nothing_twice_and_ends_in_the_same_table(make_tables, ledger, tmp_path, kills):
    tables = make_tables(users=200, films=400)
    for name in ("seeds", "histories", "items", "seen"):
        getattr(tables.seed_tables, name).write_parquet(tmp_path / f"{name}.parquet")
    log = tmp_path / "calls.log"

    def start(delay: float) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(delay)], cwd=ROOT)

    connection = sqlite3.connect(tmp_path / "ledger.sqlite")

    def recorded() -> int:
        return connection.execute("select count(*) from attempts").fetchone()[0]

    moments = sorted(random.Random(4).sample(range(10, 190), kills))
    for moment in moments:
        run = start(0.02)
        while recorded() < moment:
            assert run.poll() is None
            time.sleep(0.005)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        # The batch that was under way got no answer: what stands in the ledger is what was answered.
        answered = log.read_text().splitlines(keepends=True)
        assert moment <= recorded() <= len(answered) <= recorded() + 2
        log.write_text("".join(answered[: recorded()]))
    assert recorded() < 200
    assert start(0).wait(60) == 0
    connection.close()
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == 200
    with Ledger(tmp_path / "undisturbed.sqlite") as other:
        undisturbed = tables.of(engine=DummyEngine(batch_size=2), ledger=other)
    assert pl.read_parquet(tmp_path / "rationales.parquet").equals(undisturbed.frame)
