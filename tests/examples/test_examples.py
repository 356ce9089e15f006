"""Every example runs as it stands, on a project that is made the way the first example says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from reland_features.demo.simulator import simulate, write_world

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project made by `adopt_your_tables.sh` with the example's own encoder and LLM."""
    root = tmp_path_factory.mktemp("examples")
    tables = write_world(root / "tables", simulate(users=60, seed=2))
    for name in ("own_encoder.py", "own_llm.py"):
        (root / "D").mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, root / "D" / name)
    settings = ["encoder.name=own_encoder:CountSVD", "rationales.engine=own_llm:Phrasebook", "evaluation.command=[]"]
    done = run(
        [
            str(EXAMPLES / "adopt_your_tables.sh"),
            *(str(tables[name]) for name in ("interactions", "items", "users")),
            str(root / "D"),
            *(part for setting in settings for part in ("--set", setting)),
        ],
        root,
    )
    assert "calls" in done.stdout
    return root / "D"


def test_own_encoder_and_own_llm_make_the_features(project):
    rationales = pl.read_parquet(project / "features" / "user_rationale" / "*.parquet")
    assert rationales.height == 60
    assert rationales["summary"].unique().to_list() == ["You like what is popular."]
    (manifest,) = (project / ".reland/artifacts/behavior_vectors").glob("*/manifest.json")
    assert "count-svd-64-0" in manifest.read_text()


def test_own_ranker_trains_on_a_frame_from_feast(project):
    assert "accuracy" in run([sys.executable, str(EXAMPLES / "own_ranker.py")], project).stdout


def test_your_ranker_is_wrapped(project):
    assert "have a rationale" in run([sys.executable, str(EXAMPLES / "wrap_your_ranker.py")], project).stdout


def test_the_views_join_an_existing_feast_repository(project):
    repository = project / "own_feast_repository"
    shutil.copytree(EXAMPLES / "own_feast_repository", repository)
    start = pl.datetime(2024, 6, 1)
    orders = pl.DataFrame({"user_id": ["u00000001"], "orders_30d": [3]}).with_columns(event_timestamp=start)
    orders.write_parquet(repository / "orders.parquet")
    run(["feast", "apply", "--skip-source-validation"], repository)
    names = run(["feast", "feature-views", "list"], repository).stdout
    assert "orders" in names
    assert "user_rationale" in names
    as_of = pl.read_parquet(project / "features" / "user_rationale" / "*.parquet")["event_timestamp"][0]
    code = f"""
import pandas as pd
from feast import FeatureStore

store = FeatureStore(".")
rows = pd.DataFrame({{"user_id": ["u00000001"], "item_id": ["f001"], "event_timestamp": [pd.Timestamp("{as_of}")]}})
joined = store.get_historical_features(rows, store.get_feature_service("ranker")).to_df()
print(sorted(joined.dropna(axis=1).columns))
"""
    joined = run([sys.executable, "-c", code], repository).stdout
    for feature in ("orders_30d", "rationale_item_cosine", "rationale_components", "similarity"):
        assert feature in joined


def test_the_server_example_is_a_valid_configuration():
    import tomllib

    from reland_features.config import parse

    values = tomllib.loads((EXAMPLES / "own_llm_server.toml").read_text())
    base = {"data": {"interactions": "i", "items": "t", "columns": {"interactions": {"order": "pos"}}}}
    assert parse({**base, **values}).rationales.options["base_url"] == "http://localhost:8000/v1"


@pytest.mark.parametrize("name", ["own_encoder.py", "own_llm.py", "own_ranker.py"])
def test_bring_your_own_takes_at_most_twelve_lines(name):
    import ast

    text = (EXAMPLES / name).read_text()
    lines = [node for node in ast.parse(text).body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)]
    code = "\n".join(ast.get_source_segment(text, node) or "" for node in lines)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
