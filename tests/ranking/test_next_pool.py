"""A pool made after the rankers were trained: who goes on with it, and scores online what it scores offline."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from toy_project import CREATED_AT, MADE_WITH, Toy, make_toy

from benchmarks import across_pools
from ranking.backbones import build
from ranking.checkpoints import read_checkpoint
from ranking.ctr_data import CtrData
from ranking.ctr_fields import FieldEncoder
from ranking.ctr_fitting import CtrSettings
from ranking.ctr_fitting import train as train_masknet
from ranking.features import load_features
from ranking.fitting import FitSettings
from ranking.masknet import MaskNet, MaskNetSettings
from ranking.project import RankingProject
from ranking.sequential import train as train_sasrec
from ranking.serve import create_app
from ranking.sides import FeatureSides
from ranking.splits import Split
from ranking.train import load, save, train
from ranking.train import main as train_command
from ranking.trained_facts import required
from ranking.training_frame import training_frame
from reland_features.errors import ArtifactError, FeatureStoreError
from reland_features.feast import apply_repository, materialize, open_store
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
TOY = make_toy(users=300, items=60, seeds=12)
ITEMS = [f"i{n}" for n in range(25)]
USERS = [*(f"u{n}" for n in range(40)), "u298", "u299", "stranger"]
"""u298 has no rationale, u299 no behaviour either."""
OPTIONS = {"dimension": 8, "inner": 16, "length": 6}
SMALL = MaskNetSettings(dimension=4, blocks=2, width=8, hidden=8)
MODELS = ("xgboost", "masknet", "sasrec")


def next_pool(toy: Toy) -> Toy:
    """Nine other seeds that say the like, matched otherwise, with PCA axes and clusters that mean something else."""
    renamed = pl.col("seed_user_id").str.slice(1).cast(pl.Int64)
    moved = pl.Series((np.array(toy.pool["rationale_embedding"].to_list()) * 0.98).tolist(), dtype=pl.List(pl.Float32))
    pool = toy.pool.with_columns(
        seed_user_id=pl.format("u{}", renamed + 100),
        cluster_id=pl.col("cluster_id") + 1,
        rationale_embedding=moved,
        rationale_components=pl.col("rationale_components").list.reverse(),
    )
    other = pl.format("u{}", 100 + (renamed + 3) % 9)  # of the same taste, of which there are three
    matches = toy.matches.with_columns(seed_user_id=other, similarity=pl.col("similarity") * 0.9)
    return dataclasses.replace(toy, pool=pool.head(9), matches=matches)


@pytest.fixture(scope="module")
def trained(project, tmp_path_factory) -> Path:
    """A project of pool-1 with rankers across pools."""
    root = shutil.copytree(project.root, tmp_path_factory.mktemp("next") / "project")
    apply_repository(root / "feature_repo")
    copied = RankingProject.open(root)
    shutil.rmtree(copied.models)
    save(train(copied, across_pools=True), copied.models)
    train_masknet(copied, SMALL, CtrSettings(learning_rate=0.03, max_epochs=3), across_pools=True)
    train_sasrec(copied, OPTIONS, FitSettings(max_epochs=3, learning_rate=0.01), across_pools=True)
    return root


@pytest.fixture(scope="module")
def tomorrow(trained) -> RankingProject:
    """The same project after pool-2 was published, which has no seed in common with pool-1."""
    publish(next_pool(TOY).features("pool-2", CREATED_AT + timedelta(days=1)), trained / "features", "run-2")
    materialize(trained / "feature_repo", trained / "features", "run-2")
    set_current(trained, features_run="run-2", pool_version="pool-2")
    return RankingProject.open(trained)


def set_current(root: Path, **changed: object) -> None:
    path = root / ".reland" / "current.json"
    current = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({name: value for name, value in current.items() if value is not None}))


def rank(client: TestClient, user: str, candidates: list[str]) -> dict:
    answer = client.post("/rank", json={"user_id": user, "candidates": candidates})
    assert answer.status_code == 200, answer.text
    return answer.json()


def served_scores(client: TestClient, user: str, candidates: list[str]) -> list[float]:
    by_item = {item["item_id"]: item["score"] for item in rank(client, user, candidates)["items"]}
    return [by_item[item] for item in candidates]


def test_the_tree_ranker_scores_the_next_pool_online_as_offline(tomorrow):
    ranker, client = load(tomorrow.models, required(tomorrow)), TestClient(create_app(tomorrow.root))
    assert not [name for name in ranker.features.names if "component" in name or name == "cluster"]
    pairs = pl.DataFrame({"user_id": USERS}).join(pl.DataFrame({"item_id": ITEMS}), how="cross")
    as_of = pl.lit(tomorrow.as_of, pl.Datetime("us"))
    frame = training_frame(
        open_store(tomorrow.repository), pairs.with_columns(event_timestamp=as_of), ranker.features.service
    )
    offline = ranker.score(frame).reshape(len(USERS), len(ITEMS))
    for row, user in enumerate(USERS):
        np.testing.assert_allclose(served_scores(client, user, ITEMS), offline[row], atol=1e-6)


def test_masknet_scores_the_next_pool_online_as_offline(tomorrow):
    saved = read_checkpoint(tomorrow.models / "masknet", required(tomorrow))
    encoder = FieldEncoder.from_dict(saved.facts["encoder"])
    assert encoder.clusters.values == ()
    model = MaskNet(encoder.sizes, MaskNetSettings(**saved.facts["settings"]))
    saved.fill(model)
    store = open_store(tomorrow.repository)
    data = CtrData.of(tomorrow, store, candidates=tomorrow.evaluation.candidates, across_pools=True)
    assert data.encoder == encoder
    with torch.inference_mode():
        offline = model(data.users, data.items, data.test.user, data.test.item).numpy()
    client = TestClient(create_app(tomorrow.root, "masknet"))
    user_ids = pl.read_parquet(tomorrow.mart("holdout"))["user_id"].unique().sort()
    item = np.array(["", *encoder.items.values])[data.items.item[data.test.item].numpy()]
    for group, user in enumerate(user_ids[:40]):
        rows = np.flatnonzero(data.test.group == group)
        np.testing.assert_allclose(served_scores(client, user, item[rows].tolist()), offline[rows], atol=1e-5)


def test_sasrec_scores_the_next_pool_online_as_offline(tomorrow):
    saved = read_checkpoint(tomorrow.models / "sasrec", required(tomorrow))
    split = Split.of(tomorrow)
    features = load_features(tomorrow, split)
    assert len(features.rationales.embeddings) == 9
    sides = FeatureSides(features.item_text, features.rationales)
    backbone = build("sasrec", split, saved.facts["options"], sides=sides)
    saved.fill(backbone)
    with torch.inference_mode():
        offline = backbone.scorer("next")(torch.arange(split.n_users)).numpy()
    client, items = TestClient(create_app(tomorrow.root, "sasrec")), split.item_ids.to_list()
    for row, user in enumerate(split.user_ids[:40]):
        np.testing.assert_allclose(served_scores(client, user, items), offline[row], atol=1e-5, err_msg=user)


@pytest.mark.parametrize("model", MODELS)
def test_the_answer_and_health_name_the_pool_that_is_read(tomorrow, model):
    client = TestClient(create_app(tomorrow.root, model))
    answer = rank(client, "u1", ITEMS)
    assert answer["pool_version"] == "pool-2"
    assert int(answer["explanation"]["seed_user_id"][1:]) >= 100
    assert rank(client, "u298", ITEMS)["explanation"] is None
    health = client.get("/health").json()
    assert (health["features_run"], health["pool_version"]) == ("run-1", "pool-1"), "what it was trained on"
    published = {"features_run": "run-2", "pool_version": "pool-2", "as_of": tomorrow.as_of.isoformat()}
    assert health["published"] == published


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("changed", sorted(MADE_WITH))
def test_pools_that_were_made_otherwise_are_refused(tomorrow, tmp_path, model, changed):
    root = shutil.copytree(tomorrow.root, tmp_path / "project")
    set_current(root, pool_made_with={**MADE_WITH, changed: "another"})
    with pytest.raises(ArtifactError, match=f"the {model} was trained on other features") as error:
        create_app(root, model)
    assert "another" in error.value.expected
    assert error.value.hint == f"python -m ranking.train --project D --model {model} --across-pools"


def test_across_pools_needs_to_know_what_the_pool_was_made_with(tomorrow, tmp_path, capsys):
    root = shutil.copytree(tomorrow.root, tmp_path / "project")
    set_current(root, pool_made_with=None)
    shutil.rmtree(root / "models")
    for model in MODELS:
        assert train_command(["--project", str(root), "--model", model, "--across-pools"]) == 1
        said = capsys.readouterr().err
        assert "an older version published it" in said
        assert "the same reland run again" in said
        assert not (root / "models").exists(), "said before anything is trained"


def test_the_command_trains_across_pools(tomorrow, tmp_path):
    root = shutil.copytree(tomorrow.root, tmp_path / "project")
    apply_repository(root / "feature_repo")
    shutil.rmtree(root / "models")
    for model in ("xgboost", "masknet"):
        assert train_command(["--project", str(root), "--model", model, "--max-users", "100", "--across-pools"]) == 0
    copied = RankingProject.open(root)
    assert load(copied.models, required(copied)).features.across_pools
    assert read_checkpoint(copied.models / "masknet", required(copied)).facts["across_pools"] is True


def test_a_pool_published_while_the_app_runs_is_masked_across_pools_too(project, trained, tmp_path):
    """What it was made with is looked at when the app starts."""
    root = shutil.copytree(project.root, tmp_path / "project")
    apply_repository(root / "feature_repo")
    shutil.rmtree(root / "models")
    shutil.copytree(trained / "models", root / "models")
    apps = {model: TestClient(create_app(root, model)) for model in MODELS}
    before = {model: rank(client, "u1", ITEMS) for model, client in apps.items()}
    publish(next_pool(TOY).features("pool-2", CREATED_AT + timedelta(days=1)), root / "features", "run-2")
    materialize(root / "feature_repo", root / "features", "run-2")
    for model, client in apps.items():
        after = rank(client, "u1", ITEMS)
        assert before[model]["pool_version"] == "pool-1"
        assert after["items"] != before[model]["items"]
        assert (after["pool_version"], after["explanation"]) == (None, None)


@pytest.mark.parametrize("measure", [across_pools.xgboost, across_pools.masknet])
def test_the_benchmark_finds_the_next_pool_and_none_where_there_is_none(project, tomorrow, measure):
    pair = (across_pools.NEXT, across_pools.ACROSS)
    same = measure(project, project, users=150, seeds=1)
    assert same.differences[pair] == (0, 0, 0)
    assert same.values[across_pools.NEXT] == same.values[across_pools.ACROSS]
    moved = measure(project, tomorrow, users=150, seeds=1)
    assert moved.values[across_pools.ACROSS] == same.values[across_pools.ACROSS]
    assert moved.differences[pair][0] == pytest.approx(moved.values[pair[0]] - moved.values[pair[1]])
    assert moved.differences[pair] != (0, 0, 0)


@pytest.mark.parametrize("model", ["masknet", "sasrec"])
def test_an_app_does_not_start_between_publishing_and_materializing(project, trained, tmp_path, model):
    """Else everybody would be masked until it is started again: the store has the seeds of the pool before."""
    root = shutil.copytree(project.root, tmp_path / "project")
    apply_repository(root / "feature_repo")
    shutil.rmtree(root / "models")
    shutil.copytree(trained / "models", root / "models")
    publish(TOY.features("pool-2", CREATED_AT + timedelta(days=1)), root / "features", "run-2")
    set_current(root, features_run="run-2", pool_version="pool-2")
    with pytest.raises(FeatureStoreError, match="holds the rationales of another pool") as error:
        create_app(root, model)
    assert (error.value.got, error.value.expected) == ("pool-1", "pool-2")
    materialize(root / "feature_repo", root / "features", "run-2")
    assert rank(TestClient(create_app(root, model)), "u1", ITEMS)["pool_version"] == "pool-2"
