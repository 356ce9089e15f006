"""The bill of a project: dry run, run, manifest, report and counters say the same; nothing partial is promoted."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from reland_features.cli import app
from reland_features.demo.simulator import simulate, write_world
from reland_features.errors import ArtifactError, BudgetExceededError, ConfigError
from reland_features.init import make_project
from reland_features.ledger import Ledger
from reland_features.ledger_view import attempts, export, prune, totals
from reland_features.pipeline import run
from reland_features.project import Project
from reland_features.report.collect import _predicted
from reland_features.sources import discover_columns

SEEDS = 40
PARTS = '''
import numpy as np

from reland_features.encoders.base import BehaviorVectors
from reland_features.engines.dummy import DummyEngine


class Drawn:
    """Behaviour vectors at random: who is a seed does not matter here."""

    def __init__(self, dimension, seed):
        self.encoder_id, self.size, self.seed = f"drawn-{seed}", dimension, seed

    def encode(self, interactions, as_of):
        vectors = np.random.default_rng(self.seed).normal(size=(len(interactions.user_ids), self.size))
        return BehaviorVectors(interactions.user_ids, vectors.astype(np.float32), self.encoder_id, as_of)


class Local(DummyEngine):
    """On this machine, so that a dry run may ask it."""
    is_local = True

    def __init__(self, model, batch_size=4):
        super().__init__(model, batch_size=batch_size)
'''
SETTINGS = """
batch_size = 4
prompt_price = 2.0
completion_price = 10.0

[encoder]
name = "own_parts:Drawn"

[match]
matcher = "exact"

[feast]
apply = false
materialize = false
"""


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> Path:
    """A project whose seeds are drawn, and nothing asked yet."""
    folder = tmp_path_factory.mktemp("bill") / "D"
    tables = write_world(folder / "tables", simulate(users=60, seed=1))
    make_project(folder, tables, {}, discover=discover_columns)
    toml = (folder / "reland.toml").read_text().replace("fraction = 0.1", f"count = {SEEDS}")
    toml = toml.replace("holdout = 2", "holdout = 2\ncommand = []")
    toml = toml.replace('engine = "hf"\nmodel = "smollm2-135m-instruct"', 'engine = "own_parts:Local"\nmodel = "m"')
    (folder / "reland.toml").write_text(toml.rstrip() + SETTINGS)
    (folder / "own_parts.py").write_text(PARTS)
    run(Project.open(folder), "sample")
    return folder


@pytest.fixture
def folder(sampled, tmp_path) -> Path:
    shutil.copytree(sampled, tmp_path / "D")
    return tmp_path / "D"


@pytest.fixture(scope="module")
def generated(sampled, tmp_path_factory) -> tuple[Path, dict]:
    """The same after a dry run and the run that it was for; and what the dry run printed."""
    folder = tmp_path_factory.mktemp("generated") / "D"
    shutil.copytree(sampled, folder)
    said = reland(folder, "generate", "--dry-run", "--json")
    assert said.exit_code == 0, said.output
    run(Project.open(folder), "generate")
    return folder, json.loads(said.stdout)


@pytest.fixture(scope="module")
def published(generated, tmp_path_factory) -> tuple[Path, dict]:
    """The same with its features published and its report written."""
    folder = tmp_path_factory.mktemp("published") / "D"
    shutil.copytree(generated[0], folder)
    run(Project.open(folder))
    return folder, generated[1]


def reland(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--project", str(folder)], catch_exceptions=False)


def rationales(folder: Path) -> dict:
    (made,) = (folder / ".reland/artifacts/rationales").glob("*/manifest.json")
    return json.loads(made.read_text())


def statuses(project: Project) -> dict[str, int]:
    return dict(totals(attempts(project)).select("status", "attempts").iter_rows())


def calls(folder: Path) -> int:
    with sqlite3.connect(folder / ".reland" / "ledger.sqlite") as connection:
        return connection.execute("select count(*) from attempts").fetchone()[0]


class TestOneBill:
    def test_the_dry_run_asks_a_probe_and_predicts_the_rest(self, generated):
        _, said = generated
        assert (said["requests"], said["cached"], said["expected"]["calls"]) == (SEEDS, 20, SEEDS - 20)
        assert said["basis"] == "a probe of 20 prompts"
        assert said["expected"]["hours"] is not None

    def test_the_run_takes_what_was_said(self, generated):
        folder, said = generated
        usage, names = rationales(folder)["usage"], ("calls", "prompt_tokens")
        assert {name: usage[name] for name in names} == {name: said["expected"][name] for name in names}
        assert {name: usage["total"][name] for name in names} == {name: said["total"][name] for name in names}
        for name in ("completion_tokens", "cost"):
            assert usage[name] == pytest.approx(said["expected"][name], rel=0.1)
            assert usage["total"][name] == pytest.approx(said["total"][name], rel=0.1)

    def test_manifest_ledger_counters_and_report_agree(self, generated):
        parser = pytest.importorskip("prometheus_client.parser")
        folder, said = generated
        manifest = rationales(folder)
        total = manifest["usage"]["total"]
        assert manifest["predicted"] == said
        with Ledger(folder / ".reland" / "ledger.sqlite") as ledger:
            (engine,) = ledger.usage_by_engine()
        assert engine.engine_id == manifest["engine_id"]
        assert engine.usage.calls == total["calls"] == SEEDS
        assert engine.cost == pytest.approx(total["cost"], abs=1e-6)
        text = (folder / ".reland" / "metrics.prom").read_text()
        found = {
            (sample.name, sample.labels.get("kind", "")): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found == {
            ("reland_llm_calls_total", ""): total["calls"],
            ("reland_llm_failed_total", ""): 0,
            ("reland_llm_tokens_total", "prompt"): total["prompt_tokens"],
            ("reland_llm_tokens_total", "completion"): total["completion_tokens"],
            ("reland_llm_cost_total", ""): pytest.approx(total["cost"], abs=1e-6),
            ("reland_llm_seconds_total", ""): pytest.approx(total["seconds"], abs=1e-3),
        }
        rows = {row.name: (row.predicted, row.taken) for row in _predicted(manifest)}
        assert rows["calls"] == (SEEDS, SEEDS)
        assert rows["completion tokens"] == (said["total"]["completion_tokens"], total["completion_tokens"])
        assert set(rows) == {"calls", "prompt tokens", "completion tokens", "cost", "seconds"}

    @pytest.mark.slow
    def test_the_report_shows_both(self, published):
        folder, said = published
        total = rationales(folder)["usage"]["total"]
        (report,) = (folder / "reports").glob("*.html")
        html = report.read_text()
        assert "What the dry run had predicted" in html
        for name in ("prompt_tokens", "completion_tokens"):
            label = name.replace("_", " ").capitalize()
            row = html.split(f'<tr><th scope="row">{label}</th>')[-1].split("</tr>")[0]
            assert f"{said['total'][name]:,}" in row
            assert f"{total[name]:,}" in row

    def test_for_people_the_dry_run_says_expected_and_at_most(self, generated):
        folder, _ = generated
        done = reland(
            folder, "generate", "--dry-run", "--set", "rationales.engine=dummy", "--set", "rationales.model=other"
        )
        lines = done.stdout.splitlines()
        assert [line[:17].strip() for line in lines[:6]] == [
            "requests", "calls", "prompt tokens", "completion tokens", "cost", "hours",
        ]  # fmt: skip
        assert lines[1].split()[1:] == ["40", "at", "most", "120"]
        assert lines[5].split() == ["hours", "unknown"]
        assert lines[6].startswith("estimated from no call yet: ")
        assert calls(folder) == SEEDS


class TestNothingPartialIsPromoted:
    @pytest.mark.parametrize("until", ["match", "feast"])
    def test_a_budget_that_ends_in_the_middle_stops_before_the_pool(self, folder, until):
        with pytest.raises(BudgetExceededError, match="16 of 40 requests are answered and kept"):
            run(Project.open(folder, ["rationales.max_requests=16"]), until)
        assert calls(folder) == 16
        for kind in ("rationales", "reasoning_pool", "matches", "features"):
            assert not list((folder / ".reland/artifacts" / kind).glob("*/manifest.json"))
        assert not (folder / ".reland" / "current.json").exists()
        assert not list((folder / "features").rglob("*.parquet"))
        assert 'engine="dummy:m"} 16' in (folder / ".reland" / "metrics.prom").read_text()

    @pytest.mark.slow
    def test_what_is_published_stays_when_a_newer_run_stops(self, published, tmp_path):
        folder = tmp_path / "D"
        shutil.copytree(published[0], folder)
        before = {
            p: p.read_bytes() for p in [folder / ".reland/current.json", *(folder / "features").rglob("*.parquet")]
        }
        newer = ["rationales.max_history=4", "rationales.max_requests=9"]
        with pytest.raises(BudgetExceededError):
            run(Project.open(folder, newer), "feast")
        assert {p: p.read_bytes() for p in before} == before
        assert len(list((folder / ".reland/artifacts/reasoning_pool").iterdir())) == 1


class TestRetryFailed:
    def test_makes_new_rationales_that_later_runs_use(self, folder):
        outcomes = json.dumps(["invalid", *["ok"] * 39])
        dummy = ["rationales.engine=dummy"]
        first = run(Project.open(folder, [*dummy, f"rationales.options={{outcomes={outcomes}}}"]), "generate")
        assert first.outcomes["generate"].rows_out == 39
        plain = run(Project.open(folder, dummy), "generate")
        assert plain.outcomes["generate"].cached
        assert calls(folder) == 40
        retried = run(Project.open(folder, dummy), "generate", retry_failed=True)
        assert (retried.outcomes["generate"].rows_out, calls(folder)) == (40, 41)
        later = run(Project.open(folder, dummy), "generate")
        assert later.outcomes["generate"].artifact.id == retried.outcomes["generate"].artifact.id
        again = run(Project.open(folder, dummy), "generate", retry_failed=True)
        assert again.outcomes["generate"].cached
        assert calls(folder) == 41

    def test_a_dry_run_predicts_it(self, folder):
        outcomes = json.dumps(["invalid", *["ok"] * 39])
        run(
            Project.open(folder, ["rationales.engine=dummy", f"rationales.options={{outcomes={outcomes}}}"]), "generate"
        )
        done = reland(folder, "generate", "--dry-run", "--retry-failed", "--json", "--set", "rationales.engine=dummy")
        said = json.loads(done.stdout)
        assert said["expected"]["calls"] == 1
        made = run(Project.open(folder, ["rationales.engine=dummy"]), "generate", retry_failed=True)
        assert made.outcomes["generate"].artifact.manifest["predicted"] == said


class TestLedgerCommand:
    @pytest.fixture
    def mixed(self, folder) -> Project:
        """38 usable answers, one unusable one, one failure that was answered later, and calls of another engine."""
        outcomes = json.dumps(["invalid", "error"])
        run(
            Project.open(folder, ["rationales.engine=dummy", f"rationales.options={{outcomes={outcomes}}}"]), "generate"
        )
        with pytest.raises(BudgetExceededError):
            run(Project.open(folder, ["rationales.engine=dummy", "rationales.model=x", "rationales.max_requests=4"]))
        return Project.open(folder, ["rationales.engine=dummy"])

    def test_show_derives_what_is_invalid_and_sums_cost(self, mixed):
        found = totals(attempts(mixed)).select("engine_id", "status", "attempts").rows()
        assert found == [
            ("dummy:m", "failed", 1),
            ("dummy:m", "invalid", 1),
            ("dummy:m", "ok", 39),
            ("dummy:x", "ok", 4),
        ]
        frame = attempts(mixed)
        cost = (frame["prompt_tokens"] * 2.0 + frame["completion_tokens"] * 10.0) / 1e6
        assert frame["cost"].to_list() == pytest.approx(cost.to_list())
        (invalid,) = frame.filter(pl.col("status") == "invalid").iter_rows(named=True)
        assert invalid["text"] == "I cannot help with that.\n"
        assert "no title of the catalogue" in invalid["reason"]

    def test_show_of_a_seed_has_its_texts(self, mixed):
        (failed,) = attempts(mixed).filter(pl.col("status") == "failed").iter_rows(named=True)
        of_seed = attempts(mixed, failed["seed_user_id"])
        assert of_seed.filter(pl.col("engine_id") == "dummy:m")["status"].to_list() == ["failed", "ok"]
        done = reland(mixed.root, "ledger", "show", "--seed", failed["seed_user_id"])
        assert "scripted failure" in done.stdout
        assert "Step 1: You prefer" in done.stdout
        assert f"{of_seed.height} attempts" in done.stderr
        summary = json.loads(reland(mixed.root, "ledger", "show", "--json").stdout)
        assert sum(row["attempts"] for row in summary) == 45

    @pytest.mark.parametrize(("name", "read"), [("a.parquet", pl.read_parquet), ("a.jsonl", pl.read_ndjson)])
    def test_export_writes_every_attempt_whole(self, mixed, tmp_path, name, read):
        file = tmp_path / name
        assert export(mixed, file) == 45
        frame = read(file)
        assert frame["text"].to_list() == attempts(mixed)["text"].to_list()
        assert frame["status"].to_list() == attempts(mixed)["status"].to_list()
        assert [path.name for path in tmp_path.glob("*a.*")] == [name]
        with pytest.raises(ConfigError, match=r"the suffix '.csv'"):
            export(mixed, tmp_path / "a.csv")

    def test_prune_counts_first_and_deletes_when_told(self, mixed):
        said = json.loads(reland(mixed.root, "ledger", "prune", "--json", "--set", "rationales.engine=dummy").stdout)
        assert said == {"failed": 1, "unused": 4, "other": 0, "protected": 0, "deleted": False, "rows": 5}
        assert calls(mixed.root) == 45
        only = prune(mixed, engine_id="dummy:m", kinds=["failed"], delete=True)
        assert (only.rows, calls(mixed.root)) == (1, 44)
        prune(mixed, engine_id="dummy:m", delete=True)
        assert statuses(mixed) == {"invalid": 1, "ok": 39}
        quiet = run(mixed, "generate")  # what is left is enough
        assert quiet.outcomes["generate"].cached

    def test_prune_before_an_instant(self, mixed):
        start = attempts(mixed)["started_at"][3]  # the first batch holds 4
        instant = pl.Series([start]).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)[0]
        assert prune(mixed, engine_id="dummy:m", kinds=(), before=instant).rows == 0
        later = attempts(mixed)["started_at"].max()
        before = pl.Series([later]).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)[0]
        assert prune(mixed, engine_id="dummy:m", kinds=(), before=before).rows == 41

    @pytest.mark.slow
    def test_never_takes_from_the_current_pool_unless_forced(self, published, tmp_path):
        folder = tmp_path / "D"
        shutil.copytree(published[0], folder)
        project = Project.open(folder)
        kept = prune(project, engine_id="another", delete=True)
        assert (kept.rows, kept.protected, calls(folder)) == (0, SEEDS, SEEDS)
        assert prune(project, engine_id="another", delete=True, force=True).rows == SEEDS
        assert calls(folder) == 0

    def test_without_a_ledger_says_what_to_do(self, folder):
        with pytest.raises(ArtifactError, match=r"(?s)no ledger yet.*reland generate"):
            attempts(Project.open(folder))
