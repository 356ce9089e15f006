"""Rankers and `reland refresh`: trained on one day, they serve the matches of a later day, the pool being the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from ranking.checkpoints import read_checkpoint
from ranking.ctr_fitting import CtrSettings
from ranking.ctr_fitting import train as train_masknet
from ranking.fitting import FitSettings
from ranking.masknet import MaskNetSettings
from ranking.project import RankingProject
from ranking.sequential import train as train_sasrec
from ranking.serve import create_app
from ranking.train import MODELS, load, save, train
from ranking.trained_facts import required
from ranking.training_frame import training_frame
from reland_features.demo.simulator import simulate, write_world
from reland_features.feast import open_store
from reland_features.init import make_project
from reland_features.pipeline import refresh, run
from reland_features.project import Project
from reland_features.sources import discover_columns

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = ["rationales.engine=dummy", "match.matcher=exact", "encoder.options={max_epochs=2}", "seeds.count=6"]
EARLY, LATE = "data.as_of=2024-06-01", "data.as_of=2024-07-15"


@dataclass(frozen=True)
class Refreshed:
    """A project on the later day, and apps that were started on the first and on the later day."""

    root: Path
    first: RankingProject
    before: dict[str, TestClient] = field(default_factory=dict)
    after: dict[str, TestClient] = field(default_factory=dict)

    def matches(self, features_run: str) -> dict[str, tuple[str, float]]:
        rows = pl.read_parquet(self.root / "features" / "user_seed_match" / f"{features_run}.parquet").drop_nulls()
        return {user: (seed, value) for user, seed, value in rows["user_id", "seed_user_id", "similarity"].iter_rows()}


@pytest.fixture(scope="module")
def later(tmp_path_factory) -> Refreshed:
    root = tmp_path_factory.mktemp("refreshed") / "D"
    make_project(root, write_world(root / "tables", simulate(users=60, seed=1)), {}, discover=discover_columns)
    run(Project.open(root, [*SETTINGS, EARLY]), "feast")
    first = RankingProject.open(root)
    save(train(first), first.models)
    train_masknet(
        first, MaskNetSettings(dimension=4, blocks=2, width=8, hidden=8), CtrSettings(learning_rate=0.03, max_epochs=2)
    )
    options = {"dimension": 8, "inner": 16, "length": 6}
    train_sasrec(first, options, FitSettings(max_epochs=2, learning_rate=0.01))
    found = Refreshed(root, first)
    found.before.update({model: TestClient(create_app(root, model)) for model in MODELS})
    refresh(Project.open(root, [*SETTINGS, LATE]))
    found.after.update({model: TestClient(create_app(root, model)) for model in MODELS})
    return found


def ranked(client: TestClient, user: str, candidates: list[str]) -> dict:
    answer = client.post("/rank", json={"user_id": user, "candidates": candidates})
    assert answer.status_code == 200, answer.text
    return answer.json()


def candidates_of(project: RankingProject, count: int = 20) -> list[str]:
    return pl.read_parquet(project.mart("interactions"))["item_id"].unique().sort().head(count).to_list()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("started", ["before", "after"])
def test_an_app_serves_the_later_match_whether_it_was_started_before_or_after(later, model, started):
    now = RankingProject.open(later.root)
    assert now.pool_version == later.first.pool_version
    assert now.features_run != later.first.features_run
    was, is_now = (later.matches(project.features_run) for project in (later.first, now))
    moved = [user for user in is_now if was.get(user) != is_now[user]]
    assert len(moved) > 20
    client = getattr(later, started)[model]
    for user in moved:
        answer = ranked(client, user, candidates_of(later.first))
        seed, similarity = is_now[user]
        assert answer["explanation"]["seed_user_id"] == seed
        assert answer["explanation"]["similarity"] == pytest.approx(similarity)
        assert answer["pool_version"] == later.first.pool_version
    assert client.get("/health").json()["pool_version"] == later.first.pool_version


def test_the_tree_ranker_scores_the_later_day_online_as_offline(later):
    now = RankingProject.open(later.root)
    ranker, client = load(now.models, required(now)), later.before["xgboost"]
    items = candidates_of(later.first)
    users = pl.read_parquet(now.mart("users"))["user_id"].sort()
    pairs = pl.DataFrame({"user_id": users}).join(pl.DataFrame({"item_id": items}), how="cross", maintain_order="left")
    as_of = pl.lit(now.as_of, pl.Datetime("us"))
    frame = training_frame(
        open_store(now.repository), pairs.with_columns(event_timestamp=as_of), ranker.features.service
    )
    offline = ranker.score(frame).reshape(len(users), len(items))
    for row, user in enumerate(users):
        online = {item["item_id"]: item["score"] for item in ranked(client, user, items)["items"]}
        np.testing.assert_allclose([online[item] for item in items], offline[row], atol=1e-6)


def test_the_past_still_reads_the_match_of_then(later):
    users = pl.read_parquet(later.first.mart("users"))["user_id"].sort()
    pairs = pl.DataFrame({"user_id": users, "item_id": candidates_of(later.first, 1) * len(users)})
    then = pairs.with_columns(event_timestamp=pl.lit(later.first.as_of, pl.Datetime("us")))
    service = load(later.first.models, required(later.first)).features.service
    frame = training_frame(open_store(later.first.repository), then, service)
    found = dict(frame.select("user_id", "user_rationale__similarity").drop_nulls().iter_rows())
    assert found == {user: value for user, (_, value) in later.matches(later.first.features_run).items()}


@pytest.mark.parametrize("model", ["masknet", "sasrec"])
def test_weights_are_those_of_the_first_day(later, model):
    saved = read_checkpoint(later.root / "models" / model, required(RankingProject.open(later.root)))
    assert saved.facts["features_run"] == later.first.features_run
