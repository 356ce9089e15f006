"""Users without behaviour: profiles read back, vectors predicted, matches flagged, and the gain measured honestly."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features.check import check_parts
from reland_features.cold_start import fit_profile_model, with_cold_users
from reland_features.cold_start_evaluation import evaluate_cold_start
from reland_features.columns import FEATURE_TABLES, INTERACTIONS, ITEMS, POOL, USER_HISTORIES, USERS
from reland_features.config import ColdStart, parse
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ConfigError
from reland_features.explain import read_explanations
from reland_features.pool import ReasoningPool
from reland_features.profiles import profile_columns
from reland_features.project import Project
from reland_features.stages import Outcome, match, publish

AS_OF = datetime(2024, 5, 1)
TASTES = ("war", "love", "space")
CITIES = ("Rome", "Oslo")


# --- profiles ---


def test_profiles_are_split_into_the_columns_that_dbt_joined():
    texts = [
        "gender: F; age: 25-34; job: artist",
        "age: 7",
        "gender: M; job: smith; part time: yes",
        "job: a: b",
        None,
    ]
    table = profile_columns(pl.Series(texts), ["gender", "age", "job"])
    assert table.rows() == [
        ("F", "25-34", "artist"),
        (None, "7", None),
        ("M", None, "smith; part time: yes"),
        (None, None, "a: b"),
        (None, None, None),
    ]


def test_names_that_mean_something_in_a_pattern():
    table = profile_columns(pl.Series(["a.b (c): 1; d|e: line\none"]), ["a.b (c)", "d|e"])
    assert table.rows() == [("1", "line\none")]


# --- the model ---


def world(users: int = 150, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Taste decides where a user lies, and the profile says the taste; the city says nothing."""
    rng = np.random.default_rng(seed)
    taste = np.arange(users) % 3
    vectors = np.eye(4, dtype=np.float32)[taste] + 0.3 * rng.normal(size=(users, 4)).astype(np.float32)
    profiles = pl.DataFrame({"taste": [TASTES[t] for t in taste], "city": rng.choice(CITIES, users)})
    return profiles, (vectors * rng.uniform(0.5, 4, size=(users, 1))).astype(np.float32)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.einsum("nd,nd->n", one, other) / lengths


def test_a_profile_that_says_the_taste_predicts_its_direction():
    profiles, vectors = world()
    model = fit_profile_model(profiles, vectors, max_users=1000, seed=0)
    predicted = model.predict(profiles[:3])
    assert (cosines(predicted, np.eye(4)[:3]) > 0.98).all()
    assert model.cosine > model.cosine_of_mean + 0.2
    assert model.users == 150
    # the real mean over the learned users, by definition
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    assert model.cosine_of_mean == pytest.approx((unit @ mean / np.linalg.norm(mean)).mean(), abs=1e-6)


def test_a_profile_that_says_nothing_is_worth_nothing():
    profiles, vectors = world()
    model = fit_profile_model(profiles.select("city"), vectors, max_users=1000, seed=0)
    assert model.cosine < model.cosine_of_mean + 0.02


def test_unknown_and_missing_values_lie_near_the_mean_and_not_nowhere():
    profiles, vectors = world()
    model = fit_profile_model(profiles, vectors, max_users=1000, seed=0)
    strange = pl.DataFrame({"taste": ["chess", None, "war"], "city": [None, "Atlantis", None]})
    predicted = model.predict(strange)
    assert np.isfinite(predicted).all()
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    assert (cosines(predicted[:2], np.stack([mean] * 2)) > 0.8).all()
    assert cosines(predicted[2:], np.eye(4)[:1]) > 0.95


def test_a_column_of_many_numbers_is_a_quantity_and_values_never_seen_go_on_the_line():
    rng = np.random.default_rng(0)
    age = np.linspace(10, 80, 200).round(1)
    angle = np.radians(age)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.01 * rng.normal(size=(200, 2))
    profiles = pl.DataFrame({"age": [None if n % 20 == 0 else str(a) for n, a in enumerate(age)]})
    model = fit_profile_model(profiles, vectors.astype(np.float32), max_users=1000, seed=0)
    assert model.numeric == (True,)
    predicted = model.predict(pl.DataFrame({"age": ["20.05", "70.05", "no number", None]}))
    assert np.isfinite(predicted).all()
    assert (cosines(predicted[:2], np.array([[0.94, 0.34], [0.34, 0.94]])) > 0.98).all()


def test_at_most_so_many_users_are_learned_from_and_the_same_seed_learns_the_same():
    profiles, vectors = world()
    models = [fit_profile_model(profiles, vectors, max_users=60, seed=seed) for seed in (1, 1, 2)]
    assert [model.users for model in models] == [60] * 3
    first, again, other = (model.predict(profiles) for model in models)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# --- who is cold ---


def mart(counts: dict[str, int], profiles: dict[str, str | None]) -> pl.DataFrame:
    rows = [(user, profiles.get(user), count, None, None, None) for user, count in counts.items()]
    return pl.DataFrame(rows, schema=USERS.polars_schema(), orient="row")


def made() -> tuple[BehaviorVectors, pl.DataFrame]:
    """90 warm users, and: new (no behaviour), rare (1 interaction), seed (1, but a seed), bare (no profile), ghost."""
    profiles, vectors = world(93)
    ids = [*(f"u{n:02d}" for n in range(90)), "rare", "seed", "bare"]
    texts = [f"taste: {taste}; city: {city}" for taste, city in profiles.iter_rows()]
    said = dict(zip(ids, texts, strict=True)) | {"new": "taste: love", "bare": None, "ghost": None}
    counts = dict.fromkeys(ids[:90], 5) | {"rare": 1, "seed": 1, "bare": 1, "new": 0, "ghost": 0}
    return BehaviorVectors(pl.Series(ids), vectors, "e", AS_OF), mart(counts, said)


def test_cold_users_get_a_predicted_vector_and_all_others_keep_theirs():
    vectors, users = made()
    settings = ColdStart(enabled=True, min_interactions=2)
    started = with_cold_users(vectors, users, ["taste", "city"], settings, seeds=pl.Series(["seed", "u01"]), seed=0)
    assert started.user_ids.to_list() == ["rare", "new"]
    own = dict(zip(vectors.user_ids, vectors.vectors, strict=True))
    now = dict(zip(started.vectors.user_ids, started.vectors.vectors, strict=True))
    assert set(now) == {*own, "new"}
    assert {user for user in own if not np.array_equal(own[user], now[user])} == {"rare"}
    assert int(now["new"].argmax()) == TASTES.index("love")
    assert started.vectors.encoder_id == "e"
    assert started.facts["users"] == 2
    assert started.facts["learned_from"] == 90
    assert started.facts["cosine"] > started.facts["cosine_of_mean"]


def test_by_default_only_users_without_any_behaviour_are_cold():
    vectors, users = made()
    settings = ColdStart(enabled=True)
    started = with_cold_users(vectors, users, ["taste", "city"], settings, seeds=pl.Series(["u01"]), seed=0)
    assert started.user_ids.to_list() == ["new"]


def test_nobody_is_cold_and_nothing_is_learned():
    vectors, users = made()
    warm = users.filter(pl.col("interaction_count") > 0)
    started = with_cold_users(vectors, warm, ["taste"], ColdStart(enabled=True), seeds=pl.Series(["u01"]), seed=0)
    assert started.vectors is vectors
    assert started.facts == {"users": 0}


def test_too_few_users_to_learn_from_is_said():
    vectors, users = made()
    few = users.filter(pl.col("user_id").is_in(["u01", "u02", "new"]))
    with pytest.raises(ConfigError, match="too few users") as error:
        with_cold_users(vectors, few, ["taste"], ColdStart(enabled=True), seeds=pl.Series(["u01"]), seed=0)
    assert error.value.got == "2 users"


# --- a project ---


def pool_of(seeds: list[str], vectors: BehaviorVectors, categories: list[list[str]]) -> ReasoningPool:
    rows = {user: row for user, row in zip(vectors.user_ids, vectors.vectors.tolist(), strict=True)}
    frame = pl.DataFrame(
        [(s, 0, rows[s], [1.0], [0.0], "", said, ["x"]) for s, said in zip(seeds, categories, strict=True)],
        schema=POOL.polars_schema(),
        orient="row",
    )
    return ReasoningPool(frame.sort("seed_user_id"), "pool-1", "e", {}, AS_OF)


def project_of(root: Path, **settings: object) -> tuple[Project, Outcome, Outcome, Outcome]:
    vectors, users = made()
    columns = {"users": {"profile": ["taste", "city"]}}
    data = {"interactions": "i", "items": "t", "users": "u", "columns": columns}
    project = Project(root, parse({"data": data, "match": {"matcher": "exact"}, **settings}))
    facts = {"rows_in": 1, "rows_out": 1, "seconds": 0}
    found = []
    for kind, inputs in (("marts", []), ("behavior_vectors", ["marts-1"]), ("reasoning_pool", ["behavior_vectors-1"])):
        made_with = {"created_at": AS_OF, "config": {}, "as_of": AS_OF, "inputs": inputs}
        with project.artifacts.create(kind, f"{kind}-1", **made_with) as draft:
            draft.facts |= facts | {"encoder_id": "e", "pool_version": "pool-1"}
            if kind == "marts":
                users.write_parquet(draft.table("users"))
                taste = {
                    user: text[7:].split(";")[0] for user, text in users.select("user_id", "profile").rows() if text
                }
                rows = [(u, t, AS_OF, "interaction", 1.0, 1) for u, t in taste.items() if u != "new"]
                pl.DataFrame(rows, schema=INTERACTIONS.polars_schema(), orient="row").write_parquet(
                    draft.table("interactions")
                )
                rows = [(u, [t], 1, AS_OF) for u, t in taste.items() if u != "new"]
                pl.DataFrame(rows, schema=USER_HISTORIES.polars_schema(), orient="row").write_parquet(
                    draft.table("user_histories")
                )
                rows = [(t, t, None, [t], None, 1) for t in TASTES]
                pl.DataFrame(rows, schema=ITEMS.polars_schema(), orient="row").write_parquet(draft.table("items"))
            elif kind == "behavior_vectors":
                vectors.write(draft.table("behavior_vectors"))
            else:
                pool_of(["u00", "u01", "u02"], vectors, [["war"], ["love"], ["space"]]).write(draft.path)
        stage = project.artifacts.find(kind, f"{kind}-1")
        found.append(Outcome(kind, stage, True))
    paths = {name: str(o.artifact.path.relative_to(root)) for name, o in zip(("marts", "", "pool"), found, strict=True)}
    project.set_current({"marts": paths["marts"], "pool": paths["pool"], "pool_version": "pool-1"})
    return project, *found


def silent(done: int, total: int) -> None: ...


def test_the_match_stage_matches_cold_users_and_says_who_they_are(tmp_path):
    found = match(*project_of(tmp_path, cold_start={"enabled": True, "min_interactions": 2}), silent).artifact
    matches = {
        user: seed for user, seed in pl.read_parquet(found.table("matches")).select("user_id", "seed_user_id").rows()
    }
    assert matches["new"] == "u01", "love is what u01 likes"
    assert matches["ghost"] is None, "neither behaviour nor profile"
    assert pl.read_parquet(found.table("cold_start_users"))["user_id"].to_list() == ["rare", "seed", "new"]
    assert found.manifest["cold_start"]["users"] == 3


class Ones:
    """A text encoder that says the same of every text, as wide as the pool's embeddings here."""

    encoder_id = "ones"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 1), dtype=np.float32)


def test_what_is_published_is_flagged_and_a_default_run_publishes_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setattr("reland_features.stages.serving.text_encoder", lambda project: Ones())

    def published(root: Path, **settings: object) -> tuple[Outcome, dict[str, pl.DataFrame]]:
        project, marts, encoded, pool = project_of(root, **settings)
        matches = match(project, marts, encoded, pool, silent)
        made = publish(project, marts, encoded, pool, matches, silent)
        return made, {path.parent.name: pl.read_parquet(path) for path in project.features.glob("*/*.parquet")}

    plain, tables = published(tmp_path / "plain")
    assert set(tables) == {table.name for table in FEATURE_TABLES}
    assert plain.artifact.manifest["config"] == {"text_encoder_id": "ones"}
    assert tables["user_rationale"].filter(user_id="new")["rationale_embedding"].to_list() == [None]

    _, tables = published(tmp_path / "several", cold_start={"enabled": True}, match={"matcher": "exact", "top_k": 2})
    detail = tables["user_match_detail"]
    assert detail.filter("is_cold_start")["user_id"].to_list() == ["new"]
    counts = dict(detail.select("user_id", pl.col("seed_user_ids").list.len()).iter_rows())
    assert (counts["u05"], counts["new"], counts["ghost"]) == (2, 2, 0)
    best = dict(tables["user_rationale"].select("user_id", "seed_user_id").iter_rows())
    assert best["new"] == "u01"
    assert detail.filter(user_id="new")["seed_user_ids"][0][0] == "u01"

    root = tmp_path / "several"
    (marts,) = (root / ".reland/artifacts/marts").iterdir()
    (pool,) = (root / ".reland/artifacts/reasoning_pool").iterdir()
    (file,) = (root / "features/user_rationale").glob("*.parquet")
    new, warm = read_explanations(marts, pool, file, ["new", "u05"], last=3)
    assert (new.is_cold_start, warm.is_cold_start) == (True, False)
    assert [seed for seed, _ in new.seed_weights] == detail.filter(user_id="new")["seed_user_ids"][0].to_list()
    assert "of the behaviour that the profile predicts)" in new.text()
    weights = detail.filter(user_id="u05")["seed_weights"][0].to_list()
    assert f"its weight is {weights[0]:.2f}; other seeds: {warm.seed_weights[1][0]} {weights[1]:.2f}" in warm.text()
    assert "Eq. 3)" in warm.text()


def test_without_cold_start_matches_and_ids_are_those_of_before(tmp_path):
    project, *inputs = project_of(tmp_path)
    found = match(project, *inputs, silent).artifact
    before = {"matcher": "exact", "index": "FLAT", "uri": "pool/milvus.db"}
    names = ["marts-1", "behavior_vectors-1", "reasoning_pool-1"]
    assert found.id == project.artifacts.id_of("matches", AS_OF, before, names)
    assert not found.table("cold_start_users").exists()
    assert pl.read_parquet(found.table("matches")).filter(user_id="new")["seed_user_id"].to_list() == [None]


def test_profiles_that_are_not_there_are_found_before_a_run(tmp_path):
    data = {"interactions": "i", "items": "t"}
    project = Project(
        tmp_path, parse({"data": data, "cold_start": {"enabled": True}, "rationales": {"engine": "dummy"}})
    )
    assert [str(p.where) for p in check_parts(project) if "there are no profiles" in str(p)] == ["cold_start.enabled"]


# --- the measurement ---

SEEN = """
from pathlib import Path
import numpy as np
from reland_features.encoders.base import BehaviorVectors

class Taste:
    def __init__(self, dimension, seed):
        self.encoder_id = "e"

    def encode(self, interactions, as_of):
        Path(__file__).with_name("seen.txt").write_text(" ".join(interactions.user_ids))
        tastes = [("war", "love", "space").index(item) for item in interactions.frame["item_id"]]
        return BehaviorVectors(interactions.user_ids, np.eye(4, dtype=np.float32)[tastes], "e", as_of)
"""


def test_hidden_users_by_hand(tmp_path):
    project, *_ = project_of(tmp_path)
    found = evaluate_cold_start(project, users=30, encode_again=False)
    value = {key: estimate.value for key, estimate in found.estimates.items()}
    # Every hidden user took the one film of its taste; the profile says the taste, so its seed speaks of it.
    assert value["profile", "category precision"] == 1
    assert value["profile", "category share"] == 1
    # A constant seed is right for those of its taste, a random one for a third of the three.
    assert value["random seed", "category precision"] == pytest.approx(1 / 3)
    assert 0.2 < value["popular seed", "category precision"] < 0.5
    assert value["behaviour", "cosine"] >= value["profile", "cosine"] > value["central seed", "cosine"]
    gain = found.estimates["profile − random seed", "cosine"]
    assert gain.value == pytest.approx(value["profile", "cosine"] - value["random seed", "cosine"])
    assert 0 < gain.low < gain.value < gain.high
    assert found.distinct["profile"] == 3
    assert "is nearer than the best constant" in found.text()
    assert json.loads(json.dumps(found.as_dict()))["hidden_users"] == 30


def test_the_encoder_is_fitted_without_the_hidden_histories(tmp_path, monkeypatch):
    (tmp_path / "hidden_taste.py").write_text(SEEN)
    monkeypatch.syspath_prepend(tmp_path)
    project, *_ = project_of(tmp_path, encoder={"name": "hidden_taste:Taste", "dimension": 4})
    found = evaluate_cold_start(project, users=30)
    seen = (tmp_path / "seen.txt").read_text().split()
    assert len(seen) == 93 - 1 - 30  # bare has no film here
    assert {"u00", "u01", "u02"} <= set(seen), "seeds are not hidden"
    assert found.is_encoded_again


def test_a_project_too_small_to_hide_anybody(tmp_path):
    project, *_ = project_of(tmp_path)
    with pytest.raises(ConfigError, match="too few users with a profile"):
        evaluate_cold_start(project, users=60)
