"""Trained with one pool and measured with another, on a toy world of two projects."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up import World
from toy_project import CREATED_AT

from ranking.experiments import next_pool
from ranking.experiments.__main__ import main
from ranking.experiments.inputs import seed_rows
from ranking.experiments.runs import Run
from reland_features.feast import apply_repository
from reland_features.publishing import publish

PAGE = "next_pool_made-up"
SETTINGS = ("sasrec", "sasrec, next pool")


@pytest.fixture
def two(prepared, tmp_path) -> World:
    return two_projects(prepared, tmp_path)


@pytest.fixture(scope="module")
def unchanged(prepared, tmp_path_factory) -> World:
    return two_projects(prepared, tmp_path_factory.mktemp("unchanged"))


def two_projects(prepared: World, folder: Path) -> World:
    """Return the world with a copy of its sequential project, `sequential-next`, whose pool is the same."""
    projects = folder / "projects" / "made-up"
    shutil.copytree(prepared.projects / "made-up" / "sequential", projects / "sequential")
    shutil.copytree(projects / "sequential", projects / "sequential-next")
    file = shutil.copy(prepared.folder / "made-up.toml", folder)
    with Path(file).open("a") as text:
        text.write("[sequential.sasrec]\nfit = { max_epochs = 2 }\n")
    for name in ("sequential", "sequential-next"):
        apply_repository(projects / name / "feature_repo")  # its registry names the folder that it was copied from
    return World(folder, prepared.toy)


def publish_another(world: World, pool: pl.DataFrame) -> None:
    """Publish a pool of the same seeds in `sequential-next`, and make it the current one."""
    root = world.projects / "made-up" / "sequential-next"
    toy = dataclasses.replace(world.toy, pool=pool)
    publish(toy.features("pool-2", CREATED_AT + timedelta(days=1)), root / "features", "run-2")
    artifacts = root / ".reland" / "artifacts"
    shutil.copytree(artifacts / "features" / "run-1", artifacts / "features" / "run-2")
    for path, facts in (
        (root / ".reland" / "current.json", {"features_run": "run-2", "pool_version": "pool-2"}),
        (artifacts / "reasoning_pool" / "reasoning_pool-1" / "manifest.json", {"pool_version": "pool-2"}),
        (artifacts / "reasoning_pool" / "reasoning_pool-1" / "pool.json", {"pool_version": "pool-2"}),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def means(world: World) -> dict[tuple[str, str], float]:
    frame = pl.read_parquet(world.results / f"{PAGE}.parquet").filter(metric="ndcg", convention="masked")
    rows = frame.filter(pl.col("mean").is_not_null()).select("setting", "variant", "mean").rows()
    return {(setting, name): mean for setting, name, mean in rows}


def moved(world: World) -> dict[str, float]:
    frame = pl.read_parquet(world.results / f"{PAGE}.parquet").filter(role="pool", metric="ndcg", convention="masked")
    return {name: frame[name].item() for name in ("value", "low", "high")}


def test_a_pool_that_says_the_same_changes_nothing(two):
    publish_another(two, two.toy.pool)
    assert two.run("next_pool", "--next", "next") == 0
    assert moved(two) == {"value": 0, "low": 0, "high": 0}
    found = means(two)
    variants = {"f_item", "reland", "reland_shuffled", "reland_constant"}
    assert {name for setting, name in found if setting == SETTINGS[1]} == variants
    assert [found[SETTINGS[0], name] for name in variants] == [found[SETTINGS[1], name] for name in variants]
    assert "| sasrec | + ReLand | 6 and 6 | 100.0% | 1.000 |" in two.text(PAGE)
    assert "pool pool-1 (sequential)" in two.text(PAGE)
    assert "pool pool-2 (sequential)" in two.text(PAGE)


def test_another_pool_moves_what_reads_it_and_nothing_is_trained_again(two, capsys):
    said = np.array(two.toy.pool["rationale_embedding"].to_list())
    opposite = pl.Series((-said).tolist(), dtype=pl.List(pl.Float32))
    publish_another(two, two.toy.pool.with_columns(rationale_embedding=opposite))
    assert two.run("next_pool", "--next", "next", "--seeds", "2") == 0
    found, raw = means(two), two.raw()
    assert len(raw) == 2 * 4, "one run each of f_item, reland and the controls: the next pool has none of its own"
    assert found[SETTINGS[0], "f_item"] == found[SETTINGS[1], "f_item"]
    assert found[SETTINGS[0], "reland"] != found[SETTINGS[1], "reland"]
    assert "| 0.0% | -1.000 |" in two.text(PAGE)
    kept = ~np.isin(np.arange(40), seed_rows(two.projects / "made-up" / "sequential"))
    runs = [Run.read(path) for path in (two.results / "raw").rglob("*.parquet")]
    of_reland = [run for run in runs if run.facts["spec"]["variant"] == "reland"]
    own = [run.values("ndcg", "masked")[kept[run.users]].mean() for run in of_reland]
    assert found[SETTINGS[0], "reland"] == pytest.approx(np.mean(own)), "of users who are no seeds"
    assert moved(two)["value"] == pytest.approx(found[SETTINGS[1], "reland"] - found[SETTINGS[0], "reland"])
    capsys.readouterr()
    assert two.run("next_pool", "--next", "next", "--seeds", "2") == 0
    assert "8 runs: 8 finished before, 0 to do" in capsys.readouterr().err
    assert (two.raw(), means(two)) == (raw, found)


@pytest.mark.slow  # two projects more, which Feast applies
def test_each_task_leaves_out_the_seeds_of_its_own_pools(two, prepared, monkeypatch):
    folder = two.projects / "made-up"
    for name in ("collaborative", "collaborative-next"):
        shutil.copytree(prepared.projects / "made-up" / "collaborative", folder / name)
        apply_repository(folder / name / "feature_repo")
    seeds = {"sequential": [0, 1], "sequential-next": [1, 2], "collaborative": [7], "collaborative-next": [7]}
    monkeypatch.setattr(next_pool, "seed_rows", lambda root: np.array(seeds[root.name]))
    assert two.run("next_pool", "--next", "next", "--backbones", "sasrec,lightgcn", "--quick") == 0
    assert "36 users (sequential) and 38 users (collaborative) are measured" in two.text(f"{PAGE}_quick"), "of 39"


def test_the_summary_leaves_it_out(two, capsys):
    publish_another(two, two.toy.pool)
    assert two.run("next_pool", "--next", "next") == 0
    assert main(["summary", "--results", str(two.results)]) == 1
    assert "there are no results to sum up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--next", "nosuch"), "there is no finished project to take features from"),
        (("--next", ""), "there is one pool, not two"),
        (("--next", "next", "--variants", "mean_text"), "read no rationales of a pool as it is published"),
        (("--next", "next", "--variants", "reland_dated"), "read no rationales of a pool as it is published"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_trained(unchanged, capsys, more, said):
    assert unchanged.run("next_pool", *more) == 1
    assert said in capsys.readouterr().err
    assert not unchanged.raw()


def test_pools_of_other_interactions_are_refused(two, capsys):
    path = two.projects / "made-up" / "sequential-next" / ".reland" / "current.json"
    marts = Path(json.loads(path.read_text())["marts"])
    shutil.copytree(marts, two.folder / "others")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"marts": str(two.folder / "others")}))
    assert two.run("next_pool", "--next", "next") == 1
    assert "rationales of another source were made on other interactions" in capsys.readouterr().err
    assert not two.raw()
