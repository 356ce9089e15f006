"""A stage whose note says that it is done, and what it made was deleted, or hidden by another run, does it again."""

from __future__ import annotations

import json
import shutil
from datetime import datetime

import polars as pl
import pytest

from reland_features.demo.simulator import simulate, write_world
from reland_features.errors import FeatureStoreError
from reland_features.explain import explain
from reland_features.init import make_project
from reland_features.live_pool import open_index
from reland_features.pipeline import run
from reland_features.pool import collection_name, live_alias
from reland_features.project import Project
from reland_features.publishing import published_run
from reland_features.sources import discover_columns

NO_LLM = ["rationales.engine=dummy", "feast.apply=false", "feast.materialize=false", "encoder.options={max_epochs=1}"]
EXACT = "match.matcher=exact"


@pytest.fixture
def project(tmp_path):
    """Return a project of 40 users, opened with some settings."""
    make_project(tmp_path, write_world(tmp_path / "tables", simulate(users=40, seed=1)), {}, discover=discover_columns)
    toml = (tmp_path / "reland.toml").read_text().replace("fraction = 0.1", "count = 5")
    (tmp_path / "reland.toml").write_text(toml)
    return lambda *settings: Project.open(tmp_path, [*NO_LLM, *settings])


def evaluated(reason):
    """Return settings by which the evaluation says a reason for measuring nothing, as the report shows."""
    code = "import json, sys; json.dump(dict(not_measured=sys.argv[2]), open(sys.argv[1], 'w'))"
    return f"evaluation.command={json.dumps(['{python}', '-c', code, '{output}', reason])}"


def test_each_report_shows_the_evaluation_of_its_own_settings_and_is_made_again_once_deleted(project):
    first, second = (run(project(EXACT, evaluated(mark))).report for mark in ("mark 1", "mark 2"))
    again = run(project(EXACT, evaluated("mark 1")))
    assert again.outcomes["report"].cached
    assert again.report == first != second
    assert ["mark 1" in page.read_text() for page in (first, second)] == [True, False]
    assert "mark 2" in second.read_text()
    shutil.rmtree(first.parent)
    assert run(project(EXACT, evaluated("mark 1"))).report == first
    assert "mark 1" in first.read_text()


@pytest.mark.parametrize("deleted", ["one file", "everything"])
def test_deleted_features_are_published_again(project, deleted):
    made = project(EXACT)
    run(made, "publish")
    before = published_run(made.features)
    tables = {name: pl.read_parquet(path).drop("created_timestamp") for name, path in before.paths.items()}
    if deleted == "everything":
        shutil.rmtree(made.features)
    else:
        before.paths["user_rationale"].unlink()
    with pytest.raises(FeatureStoreError, match="no longer all there") as raised:
        explain(made, "u00000001")
    assert raised.value.hint == "reland run"
    assert not run(made, "publish").outcomes["publish"].cached
    after = published_run(made.features)
    assert after.run_id == before.run_id
    for name, path in after.paths.items():
        assert pl.read_parquet(path).drop("created_timestamp").equals(tables[name])
    assert explain(made, "u00000001")
    assert run(made, "publish").outcomes["publish"].cached


def test_an_earlier_run_that_is_served_again_has_match_details_of_its_own(project):
    early = "data.as_of=2024-06-01"
    plain = run(project(EXACT, early), "publish").outcomes["publish"]
    run(project(EXACT, "match.top_k=2"), "publish")
    served = run(project(EXACT, early), "publish").outcomes["publish"]
    files = published_run(project().features, served.artifact.id).paths
    assert served.as_of == plain.as_of == datetime(2024, 6, 1)
    detail, match = (pl.read_parquet(files[name]) for name in ("user_match_detail", "user_seed_match"))
    assert set(detail["pool_version"].drop_nulls()) == set(match["pool_version"].drop_nulls())
    best = detail.select("user_id", seed_user_id=pl.col("seed_user_ids").list.first())
    assert best.sort("user_id").equals(match.select("user_id", "seed_user_id").sort("user_id"))
    assert run(project(EXACT, early), "publish").outcomes["publish"].artifact.id == served.artifact.id


def test_a_pool_whose_milvus_file_was_deleted_is_installed_again(project):
    made = project()
    outcomes = run(made, "match").outcomes
    shutil.rmtree(made.root / "pool")
    assert run(made, "match").outcomes["match"].cached
    prefix, index = made.config.pool.collection_prefix, open_index(made)
    version = outcomes["pool"].artifact.manifest["pool_version"]
    assert index.alias(live_alias(prefix)) == collection_name(prefix, version)
    assert index.size(collection_name(prefix, version)) == outcomes["pool"].rows_out
    index.close()
