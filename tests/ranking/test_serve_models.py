"""SASRec and MaskNet behind the same app: scores made online are the scores made offline."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from toy_project import CREATED_AT, make_toy, write_project

from ranking import sequential
from ranking.backbones import build
from ranking.backbones.base import First
from ranking.checkpoints import Checkpoint, read_checkpoint
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
from ranking.served import OnlineFeatures
from ranking.sides import FeatureSides
from ranking.splits import Split
from ranking.train import load
from ranking.train import main as train
from reland_features.errors import ArtifactError, FeatureStoreError
from reland_features.feast import apply_repository, materialize, open_store
from reland_features.publishing import publish

pytestmark = pytest.mark.filterwarnings("ignore")
ITEMS = [f"i{n}" for n in range(25)]
OPTIONS = {"dimension": 8, "inner": 16, "length": 6}
"""The histories have 4 to 11 items, so some are cut."""
SMALL = MaskNetSettings(dimension=4, blocks=2, width=8, hidden=8)


def make_project(folder, users: int) -> RankingProject:
    root = write_project(folder, make_toy(users=users, items=60, seeds=12))
    apply_repository(root / "feature_repo")
    materialize(root / "feature_repo", root / "features")
    return RankingProject.open(root)


def train_both(project: RankingProject) -> None:
    train_masknet(project, SMALL, CtrSettings(learning_rate=0.03, max_epochs=3))
    train_sasrec(project, OPTIONS, FitSettings(max_epochs=3, learning_rate=0.01))


@pytest.fixture(scope="module")
def small(project, tmp_path_factory):
    """The session's project, copied with its applied repository, and both rankers."""
    root = shutil.copytree(project.root, tmp_path_factory.mktemp("served") / "project")
    apply_repository(root / "feature_repo")  # its registry names the folder that it was copied from
    copied = RankingProject.open(root)
    train_both(copied)
    return copied


@pytest.fixture(scope="module")
def clients(small):
    return {model: TestClient(create_app(small.root, model)) for model in ("masknet", "sasrec")}


def rank(client, **body):
    return client.post("/rank", json=body)


def served_scores(client, user: str, candidates: list[str]) -> list[float]:
    answer = rank(client, user_id=user, candidates=candidates)
    assert answer.status_code == 200, answer.text
    by_item = {item["item_id"]: item["score"] for item in answer.json()["items"]}
    return [by_item[item] for item in candidates]


def checkpoint(project: RankingProject, model: str) -> Checkpoint:
    return read_checkpoint(project.models / model, {"features_run": "run-1", "pool_version": "pool-1"})


def assert_sasrec_parity(project: RankingProject, client, users: int) -> None:
    saved, split = checkpoint(project, "sasrec"), Split.of(project)
    features = load_features(project, split)
    sides = FeatureSides(features.item_text, features.rationales)
    backbone = build("sasrec", split, saved.facts["options"], sides=sides)
    backbone.load_state_dict(saved.weights)
    with torch.inference_mode():
        offline = backbone.eval().scorer("next")(torch.arange(split.n_users)).numpy()
    items = split.item_ids.to_list()
    for row, user in enumerate(split.user_ids[:users]):
        np.testing.assert_allclose(served_scores(client, user, items), offline[row], atol=1e-5, err_msg=user)
    assert offline.std(axis=1).min() > 1e-3, "scores that are all alike would agree whatever is served"
    fused = backbone.user_side
    backbone.user_side = First()
    with torch.inference_mode():
        unfused = backbone.scorer("next")(torch.arange(split.n_users)).numpy()
    backbone.user_side = fused
    moved = np.abs(unfused - offline).max(axis=1)
    assert (moved[features.rationales.has] > 1e-3).all(), "every rationale moves its user's scores"


def assert_masknet_parity(project, client, users: int) -> None:
    saved = checkpoint(project, "masknet")
    encoder = FieldEncoder.from_dict(saved.facts["encoder"])
    model = MaskNet(encoder.sizes, MaskNetSettings(**saved.facts["settings"]))
    saved.fill(model)
    data = CtrData.of(project, open_store(project.repository), candidates=project.evaluation.candidates)
    assert data.encoder == encoder
    with torch.inference_mode():
        offline = model(data.users, data.items, data.test.user, data.test.item).numpy()
    user_ids = pl.read_parquet(project.mart("holdout"))["user_id"].unique().sort()
    item = np.array(["", *encoder.items.values])[data.items.item[data.test.item].numpy()]
    for group, user in enumerate(user_ids[:users]):
        rows = np.flatnonzero(data.test.group == group)
        np.testing.assert_allclose(served_scores(client, user, item[rows].tolist()), offline[rows], atol=1e-5)
    assert offline.std() > 1e-2


def test_sasrec_scores_online_as_offline(small, clients):
    assert_sasrec_parity(small, clients["sasrec"], users=100)


def test_masknet_scores_online_as_offline(small, clients):
    assert_masknet_parity(small, clients["masknet"], users=100)


@pytest.mark.slow
def test_scores_of_1000_users_are_the_same_online_and_offline(tmp_path):
    project = make_project(tmp_path / "project", users=1001)
    for model in ("masknet", "sasrec"):
        assert train(["--project", str(project.root), "--model", model]) == 0
    assert_sasrec_parity(project, TestClient(create_app(project.root, "sasrec")), users=1000)
    assert_masknet_parity(project, TestClient(create_app(project.root, "masknet")), users=1000)


def test_the_rationale_comes_from_the_online_store_and_moves_the_scores(small, clients):
    without = pl.read_parquet(small.root / "features" / "user_rationale" / "run-1.parquet").filter(
        pl.col("seed_user_id").is_null()
    )["user_id"]
    assert "u298" in without.to_list()
    for model, client in clients.items():
        answer = rank(client, user_id="u1", candidates=ITEMS).json()
        assert answer["explanation"]["seed_user_id"] is not None, model
        assert answer["pool_version"] == "pool-1"
        assert rank(client, user_id="u298", candidates=ITEMS).json()["explanation"] is None


def test_strangers_get_the_mask(clients):
    for model, client in clients.items():
        stranger = rank(client, user_id="stranger", candidates=ITEMS).json()
        nothing = rank(client, user_id="u299", candidates=ITEMS).json()  # published, and without any behaviour
        assert (stranger["is_known_user"], nothing["is_known_user"]) == (False, True)
        assert (stranger["explanation"], stranger["pool_version"]) == (None, None)
        scores = {item["item_id"]: item["score"] for item in stranger["items"]}
        assert np.isfinite(list(scores.values())).all()
        if model == "sasrec":
            assert set(scores.values()) == {0.0}, "no history and no user embedding: nothing to score with"
            assert [item["item_id"] for item in stranger["items"]] == ITEMS


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("masknet", "1 of 3 candidates have no features: ['nothing']"),
        ("sasrec", "1 of 3 candidates were not in the ranker's training data: ['nothing']"),
    ],
)
def test_unknown_items_are_named(clients, model, says):
    answer = rank(clients[model], user_id="u1", candidates=["i1", "nothing", "i2"])
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("model", ["masknet", "sasrec"])
def test_health_and_checkpoint_name(clients, small, model):
    health = clients[model].get("/health").json()
    assert health["features_run"] == "run-1"
    assert health["model"].startswith(f"{model}-")
    assert rank(clients[model], user_id="u1", candidates=["i1"]).json()["model"] == health["model"]


@pytest.mark.parametrize("model", ["xgboost", "masknet", "sasrec"])
def test_a_ranker_that_was_not_trained_is_not_served(small, tmp_path, model):
    root = tmp_path / "project"
    shutil.copytree(small.root / ".reland", root / ".reland")
    with pytest.raises(ArtifactError, match=f"no {model} has been trained"):
        create_app(root, model)


@pytest.mark.parametrize("model", ["xgboost", "masknet", "sasrec"])
def test_a_ranker_of_one_pool_is_not_served_with_another(small, tmp_path, model):
    root = tmp_path / "project"
    shutil.copytree(small.root / ".reland", root / ".reland")
    shutil.copytree(small.models, root / "models")
    current = json.loads((root / ".reland" / "current.json").read_text())
    (root / ".reland" / "current.json").write_text(json.dumps({**current, "pool_version": "pool-2"}))
    with pytest.raises(ArtifactError, match="trained on other features") as error:
        create_app(root, model)
    assert (error.value.got, error.value.expected) == ("{'pool_version': 'pool-1'}", "{'pool_version': 'pool-2'}")
    assert "with --across-pools it serves the next pools too" in error.value.hint


@pytest.mark.parametrize("model", ["xgboost", "masknet", "sasrec"])
def test_a_damaged_ranker_is_one_clear_error(small, tmp_path, model):
    root = tmp_path / "project"
    shutil.copytree(small.root, root)
    for facts in (root / "models").rglob("ranker.json"):
        facts.write_text(facts.read_text()[:40])
    with pytest.raises(ArtifactError, match="a trained ranker cannot be read") as error:
        create_app(root, model)
    assert error.value.hint == f"python -m ranking.train --project D --model {model}"


@pytest.mark.parametrize("beside", [False, True])
def test_a_sasrec_that_did_not_keep_how_texts_were_scaled_is_one_clear_error(small, monkeypatch, beside):
    """Two older versions: the one kept no scale, the other kept it beside the weights."""
    saved = checkpoint(small, "sasrec")
    older = {name: value for name, value in saved.weights.items() if ".texts." not in name and "text_scale" not in name}
    assert len(older) < len(saved.weights)
    if beside:
        for side, module in (("rationales", "user_side"), ("items", "item_side")):
            for own in ("mean", "scale"):
                older[f"text_scale.{side}.{own}"] = saved.weights[f"{module}.texts.{own}"]
    monkeypatch.setattr(sequential, "read_checkpoint", lambda *given: dataclasses.replace(saved, weights=older))
    with pytest.raises(ArtifactError, match="did not keep how texts were scaled") as error:
        create_app(small.root, "sasrec")
    assert error.value.where == saved.name
    assert error.value.hint == "python -m ranking.train --project D --model sasrec"


@pytest.mark.parametrize("model", ["xgboost", "masknet", "sasrec"])
def test_a_store_before_its_materialization_says_so(small, tmp_path, model):
    root = write_project(tmp_path / "project", make_toy(users=300, items=60, seeds=12))
    apply_repository(root / "feature_repo")
    shutil.copytree(small.models, root / "models")
    if model == "sasrec":
        with pytest.raises(FeatureStoreError, match="holds nothing that the sasrec reads") as error:
            create_app(root, model)
        assert "feast materialize" in error.value.hint
    else:
        answer = rank(TestClient(create_app(root, model)), user_id="u1", candidates=["i1"])
        assert answer.status_code == 422
        assert "have no features" in answer.json()["detail"]


def test_a_pool_published_since_is_masked_and_not_shown(small, tmp_path):
    root = make_project(tmp_path / "project", users=300).root
    shutil.copytree(small.models, root / "models")
    apps = {model: TestClient(create_app(root, model)) for model in ("xgboost", "masknet", "sasrec")}
    before = {model: rank(client, user_id="u1", candidates=ITEMS).json() for model, client in apps.items()}
    toy = make_toy(users=300, items=60, seeds=12)
    publish(toy.features("pool-2", CREATED_AT + timedelta(hours=1)), root / "features", "run-2")
    materialize(root / "feature_repo", root / "features", "run-2")
    for model, client in apps.items():
        after = rank(client, user_id="u1", candidates=ITEMS).json()
        assert before[model]["pool_version"] == "pool-1"
        assert (after["explanation"], after["pool_version"]) == (None, None)
        scores = [{item["item_id"]: item["score"] for item in answer["items"]} for answer in (before[model], after)]
        assert scores[0] != scores[1]
        assert np.isfinite(list(scores[1].values())).all()
    ranker, online = load(root / "models", {}), OnlineFeatures.of(RankingProject.open(root))
    service = ranker.features.service
    frame = online.read(service, "item_id", ITEMS, user_id="u1")
    nothing = online.read(service, "item_id", ITEMS, user_id="u299")  # who has no rationale
    names = [name for name in frame.columns if name.startswith(("user_rationale__", "rationale_item_cross__"))]
    expected = ranker.score(frame.with_columns(nothing[name].cast(frame.schema[name]) for name in names))
    np.testing.assert_allclose(served_scores(apps["xgboost"], "u1", ITEMS), expected, atol=1e-6)


def test_items_keep_the_scale_of_training_when_others_lose_their_text(small, clients, monkeypatch):
    split = Split.of(small)
    own = split.items[split.offsets[0] : split.offsets[1]]
    kept = {*split.item_ids.gather(own), "i1", "i2", "i3"}
    gone = np.array([item not in kept for item in split.item_ids])
    assert gone.sum() > 20
    read = sequential._item_text
    monkeypatch.setattr(sequential, "_item_text", lambda *given: np.where(gone[:, None], 0, read(*given)))
    user, candidates = split.user_ids[0], ["i1", "i2", "i3"]
    served = served_scores(TestClient(create_app(small.root, "sasrec")), user, candidates)
    np.testing.assert_allclose(served, served_scores(clients["sasrec"], user, candidates), atol=1e-5)
