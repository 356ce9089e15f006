"""What is served is what was trained: the same scores online as offline."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from ranking.serve import create_app, main
from ranking.train import load
from ranking.trained_facts import required
from ranking.training_frame import training_frame
from reland_features.errors import ArtifactError, FeatureStoreError
from reland_features.feast import open_store

pytestmark = pytest.mark.filterwarnings("ignore")
ITEMS = [f"i{n}" for n in range(25)]


@pytest.fixture(scope="module")
def client(project):
    return TestClient(create_app(project.root))


def rank(client, **body):
    return client.post("/rank", json=body)


@pytest.mark.parametrize("user", ["u0", "u17", "u298", "u299", "stranger"])
def test_served_scores_equal_offline_scores(client, project, user):
    answer = rank(client, user_id=user, candidates=ITEMS).json()
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 25
    entity_df = pl.DataFrame({"user_id": [user] * 25, "item_id": ITEMS}).with_columns(
        event_timestamp=pl.lit(project.as_of, pl.Datetime("us"))
    )
    ranker = load(project.models, required(project))
    frame = training_frame(open_store(project.repository), entity_df, ranker.features.service)
    expected = dict(zip(ITEMS, ranker.score(frame), strict=True))
    served = {item["item_id"]: item["score"] for item in answer["items"]}
    np.testing.assert_allclose([served[i] for i in ITEMS], [expected[i] for i in ITEMS], atol=1e-6)


def test_the_answer_explains_itself(client, project):
    published = pl.read_parquet(project.root / "features" / "user_rationale" / "run-1.parquet")
    row = published.filter(pl.col("user_id") == "u5").row(0, named=True)
    answer = rank(client, user_id="u5", candidates=ITEMS, top_k=3).json()
    assert len(answer["items"]) == 3
    assert answer["is_known_user"]
    assert answer["explanation"] == {
        "summary": row["summary"],
        "seed_user_id": row["seed_user_id"],
        "similarity": pytest.approx(row["similarity"]),
    }
    assert answer["pool_version"] == "pool-1"


def test_users_without_rationale_and_strangers_get_the_mask(client):
    known = rank(client, user_id="u299", candidates=ITEMS).json()
    stranger = rank(client, user_id="stranger", candidates=ITEMS).json()
    assert (known["is_known_user"], known["explanation"], known["pool_version"]) == (True, None, "pool-1")
    assert (stranger["is_known_user"], stranger["explanation"], stranger["pool_version"]) == (False, None, None)
    assert stranger["items"] == known["items"], "no behaviour and no rationale, either way"


def test_ids_may_come_as_numbers(client):
    assert rank(client, user_id=7, candidates=["i1"]).json()["user_id"] == "7"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"user_id": "u1", "candidates": []}, "at least 1 item"),
        ({"user_id": "u1"}, "Field required"),
        ({"user_id": "", "candidates": ["i1"]}, "at least 1 character"),
        ({"user_id": "u1", "candidates": ["i1", "nothing", "i2"]}, "1 of 3 candidates have no features: ['nothing']"),
        ({"user_id": "u1", "candidates": ["i1"], "top_k": 0}, "greater than or equal to 1"),
        ({"user_id": "u1", "candidates": ["i1"], "limit": 3}, "Extra inputs are not permitted"),
        ({"user_id": "u1", "candidates": ["i1"] * 10_001}, "at most 10000 items"),
    ],
)
def test_requests_that_cannot_be_answered(client, body, says):
    answer = rank(client, **body)
    assert answer.status_code == 422
    assert says in str(answer.json()["detail"])


def test_requests_at_once_get_their_own_answers(client):
    users = [f"u{n % 20}" for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda user: rank(client, user_id=user, candidates=ITEMS).json(), users))
    alone = {user: rank(client, user_id=user, candidates=ITEMS).json() for user in set(users)}
    assert answers == [alone[user] for user in users]


def test_health(client):
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["features_run"] == "run-1"
    assert health["pool_version"] == "pool-1"


def test_a_project_that_is_not_ready(tmp_path, project):
    with pytest.raises(FeatureStoreError, match="published no features"):
        create_app(tmp_path)
    (tmp_path / ".reland").mkdir()
    (tmp_path / ".reland" / "current.json").write_text((project.root / ".reland" / "current.json").read_text())
    with pytest.raises(ArtifactError, match="no xgboost has been trained"):
        create_app(tmp_path)


@pytest.fixture
def copied(project, tmp_path):
    """The project with an online store of its own, for tests that break it."""
    root = shutil.copytree(project.root, tmp_path / "D")
    return root, root / "feature_repo" / "data" / "online_store.db"


def drop_tables(store):
    with sqlite3.connect(store) as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            connection.execute(f'drop table "{name}"')


def test_a_store_without_tables_stops_the_start_and_says_what_to_type(copied, capsys):
    root, store = copied
    drop_tables(store)
    with pytest.raises(FeatureStoreError, match="online store cannot be read") as caught:
        create_app(root)
    assert caught.value.hint == "reland publish"
    assert "no such table" in caught.value.got
    assert main(["--project", str(root)]) == 1
    assert "reland publish" in capsys.readouterr().err


def test_a_store_that_fails_later_is_answered_with_503_and_one_line(copied, caplog):
    root, store = copied
    client = TestClient(create_app(root))
    assert rank(client, user_id="u1", candidates=ITEMS).status_code == 200
    drop_tables(store)
    answer = rank(client, user_id="u1", candidates=ITEMS)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "the online store cannot be read; try again later"}
    (said,) = [r.getMessage() for r in caplog.records if "online store" in r.getMessage()]
    assert "no such table" in said
    assert "reland publish" in said
    assert "\n" not in said
    assert client.get("/health").status_code == 200
