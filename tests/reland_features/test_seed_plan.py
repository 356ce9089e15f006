"""The number of seeds: the curve by hand, the rules, the tokens, and the run that stops by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features.columns import INTERACTIONS, ITEMS, USER_HISTORIES, USERS
from reland_features.config import Config, Seeds, parse
from reland_features.demo.simulator import simulate, write_world
from reland_features.encoders.base import BehaviorVectors
from reland_features.init import make_project
from reland_features.ledger import Attempt, Ledger
from reland_features.project import Project
from reland_features.seed_curve import advise, knee, seed_counts, similarity_curve
from reland_features.seed_plan import draw_curve, plan_seeds
from reland_features.seeds import UserClustering, sample_seeds
from reland_features.sources import discover_columns
from reland_features.stages import Outcome, sample

AS_OF = datetime(2024, 5, 1)


def vectors_of(values: np.ndarray) -> BehaviorVectors:
    ids = pl.Series([f"u{row:03d}" for row in range(len(values))])
    return BehaviorVectors(ids, np.asarray(values, dtype=np.float32), "toy", AS_OF)


def blobs(n_users: int = 200, seed: int = 0) -> BehaviorVectors:
    rng = np.random.default_rng(seed)
    return vectors_of(rng.normal(size=(8, 6))[rng.integers(0, 8, n_users)] * 2 + rng.normal(size=(n_users, 6)))


# --- the curve ---


def test_the_curve_by_hand():
    # One seed of one cluster is the user nearest to the mean, (0.8, 0.6): cosines 0.8, 1, 0.6. Of three, all are.
    users = vectors_of([[1, 0], [4, 3], [0, 2]])
    curve = similarity_curve(users, [1, 1, 1], [1, 3], Seeds(clusters=1), seed=0, draws=1, covered_at=0.7)
    expected = {
        "seeds": [1, 3],
        "share": [1 / 3, 1],
        "mean": [0.8, 1],
        "mean_spread": [0, 0],
        "others": [0.7, np.nan],
        "median": [0.8, 1],
        "q05": [0.62, 1],  # a tenth of the way from 0.6 to 0.8
        "coverage": [2 / 3, 1],
        "coverage_spread": [0, 0],
        "loss": [0.2, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(curve[name].to_numpy(), values, atol=1e-6, err_msg=name)
    assert curve["gain_per_100"][0] is None
    assert curve["gain_per_100"][1] == pytest.approx(10)  # 0.2 by two more seeds


def test_the_first_draw_is_the_run_with_that_number():
    users, counts = blobs(), np.arange(1, 201)
    unit = users.vectors / np.linalg.norm(users.vectors, axis=1, keepdims=True)
    curve = similarity_curve(users, counts, [5, 40], Seeds(), seed=3, draws=1)
    for number, mean in curve.select("seeds", "mean").iter_rows():
        own = sample_seeds(users, counts, budget=number, clusters="auto", generator=np.random.default_rng(3)).seeds
        rows = [int(user[1:]) for user in own["user_id"]]
        assert mean == pytest.approx((unit @ unit[rows].T).max(axis=1).mean(), abs=1e-6)


def test_a_shared_clustering_changes_no_sample():
    users, counts = blobs(), np.arange(1, 201)
    shared = UserClustering(users.vectors)
    for number in (5, 40, 41):
        options = {"budget": number, "clusters": "auto"}
        plain = sample_seeds(users, counts, generator=np.random.default_rng(1), **options)
        again = sample_seeds(users, counts, generator=np.random.default_rng(1), clustering=shared, **options)
        assert again.seeds.equals(plain.seeds)
        assert again.user_clusters.equals(plain.user_clusters)


def test_draws_have_a_spread_and_more_seeds_are_nearer():
    curve = similarity_curve(blobs(), np.ones(200), [5, 20, 80], Seeds(), seed=0, draws=3)
    assert (curve["mean_spread"] > 0).all()
    assert (curve["mean"].diff().drop_nulls() > 0).all()
    assert (curve["loss"] + curve["mean"]).to_list() == pytest.approx([1, 1, 1])


def test_numbers_are_shares_of_the_users_below_the_limit_and_the_configured_one():
    assert seed_counts(1000, 100, 64) == [5, 10, 20, 30, 50, 64, 75, 100]
    assert seed_counts(1000, 60, 500) == [5, 10, 20, 30, 50, 60]
    assert seed_counts(20, 20, 2) == [1, 2, 3, 4, 6, 8]


# --- the rules ---


def test_the_knee_by_hand():
    # scaled to [0, 1]: 0, .6, .8, 1 over 0, .25, .5, 1; above the diagonal by 0, .35, .3, 0
    assert knee([10, 20, 30, 50], [0.5, 0.8, 0.9, 1.0]) == 1
    assert knee([10, 20, 30], [0.5, 0.5, 0.5]) == 0
    assert knee([10], [0.5]) == 0


CURVE = pl.DataFrame(
    {"seeds": [10, 20, 30, 50], "mean": [0.5, 0.8, 0.9, 1.0], "gain_per_100": [None, 3.0, 1.0, 0.5]},
)


def test_advice_by_the_knee_says_what_seeds_add_on_both_sides():
    advice = advise(CURVE)
    assert (advice.seeds, advice.rule) == (20, "knee")
    assert "100 seeds add 3.0000" in advice.reason
    assert "beyond it 0.6667" in advice.reason


@pytest.mark.parametrize(("least", "seeds"), [(4, 10), (2, 20), (1, 30), (0.6, 30), (0.1, 50)])
def test_advice_by_a_threshold_is_the_number_before_the_first_step_below_it(least, seeds):
    advice = advise(CURVE, least)
    assert (advice.seeds, advice.rule) == (seeds, "threshold")
    assert ("more of them may be worth it" in advice.reason) == (seeds == 50)


# --- a project ---


def project_of(root: Path, **settings: object) -> tuple[Project, Outcome, Outcome]:
    """Finished prepare and encode stages, made by hand: 120 users of 30 films, asked by the dummy engine."""
    config: Config = parse(
        {"data": {"interactions": "i", "items": "t"}, "rationales": {"engine": "dummy", "max_tokens": 100}, **settings}
    )
    project, users = Project(root, config), blobs(120)
    store, made = project.artifacts, {"created_at": AS_OF, "config": {}, "as_of": AS_OF}
    counts = [1 + n % 7 for n in range(120)]
    films = [f"f{n}" for n in range(30)]
    with store.create("marts", "marts-1", inputs=[], **made) as draft:
        rows = [(user, None, count, "L1", AS_OF, AS_OF) for user, count in zip(users.user_ids, counts, strict=True)]
        pl.DataFrame(rows, schema=USERS.polars_schema(), orient="row").write_parquet(draft.table("users"))
        rows = [(user, films[:count], count, AS_OF) for user, count in zip(users.user_ids, counts, strict=True)]
        pl.DataFrame(rows, schema=USER_HISTORIES.polars_schema(), orient="row").write_parquet(
            draft.table("user_histories")
        )
        rows = [
            (user, film, AS_OF, "interaction", 1.0, 1 + n)
            for user, count in zip(users.user_ids, counts, strict=True)
            for n, film in enumerate(films[:count])
        ]
        pl.DataFrame(rows, schema=INTERACTIONS.polars_schema(), orient="row").write_parquet(draft.table("interactions"))
        rows = [(film, f"Film {film}", None, ["Drama", "War"], None, 1) for film in films]
        pl.DataFrame(rows, schema=ITEMS.polars_schema(), orient="row").write_parquet(draft.table("items"))
        draft.facts |= {"rows_in": 1, "rows_out": 1, "seconds": 0}
    with store.create("behavior_vectors", "vectors-1", inputs=["marts-1"], **made) as draft:
        users.write(draft.table("behavior_vectors"))
        draft.facts |= {"rows_in": 1, "rows_out": 120, "seconds": 0, "encoder_id": "toy"}
    found = [store.find(*names) for names in (("marts", "marts-1"), ("behavior_vectors", "vectors-1"))]
    return project, *(Outcome(stage, made, True) for stage, made in zip(("prepare", "encode"), found, strict=True))


def silent(done: int, total: int) -> None: ...


def test_a_plan_counts_real_prompts_and_values_tokens(tmp_path):
    project, marts, encoded = project_of(tmp_path)
    plan = plan_seeds(project, {"prepare": marts, "encode": encoded}, draws=2)
    assert plan.curve["seeds"].to_list() == [1, 2, 4, 6, 9, 12, 18, 24, 36, 48]
    assert plan.configured == 12
    assert plan.tokens.completion == 100
    assert "prompts counted" in plan.tokens.source
    each = plan.tokens.total
    assert plan.curve["tokens"].to_list() == pytest.approx([each * n for n in plan.curve["seeds"]])
    # mean similarity per 1,000 tokens, from the definition
    gain = (plan.curve["mean"][3] - plan.curve["mean"][2]) / (2 * each / 1000)
    assert plan.curve["gain_per_1000_tokens"][3] == pytest.approx(gain)
    assert json.loads(json.dumps(plan.as_dict()))["recommended"]["seeds"] == plan.advice.seeds
    assert f"→ recommended: {plan.advice.seeds}" in plan.text()
    assert len([line for line in plan.table().splitlines() if line.startswith("| → ") or line.startswith("| →* ")]) == 1
    draw_curve(plan, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_tokens_come_from_the_ledger_where_it_knows_engine_and_prompt(tmp_path):
    from reland_features.prompts import PromptTemplate
    from reland_features.stages import llm_engine

    project, marts, encoded = project_of(tmp_path)
    engine = llm_engine(project)
    prompt_id = PromptTemplate.of(project.config.rationales, base=project.root).prompt_id

    def attempt(seed: str, prompt: int, answer: int, prompt_id: str = prompt_id) -> Attempt:
        return Attempt(seed, engine.engine_id, prompt_id, "{}", seed, "ok", "", "stop", prompt, answer, "", "", 1.0)

    with Ledger(project.ledger) as ledger:
        # the second seed was asked twice; another prompt does not count
        ledger.record([attempt("a", 100, 10), attempt("b", 200, 20), attempt("b", 200, 40)])
        ledger.record([attempt("c", 9999, 9999, "other")])
    plan = plan_seeds(project, {"prepare": marts, "encode": encoded}, draws=1)
    assert (plan.tokens.prompt, plan.tokens.completion) == (250, 35)
    assert plan.tokens.source.startswith("ledger")


def test_a_run_stops_where_seeds_are_worth_less(tmp_path):
    project, marts, encoded = project_of(tmp_path, seeds={"count": 40, "min_marginal_similarity": 0.9})
    drawn = sample(project, marts, encoded, silent)
    plan = plan_seeds(project, {"prepare": marts, "encode": encoded}, draws=3)
    assert plan.advice.rule == "threshold"
    assert 1 < drawn.rows_out == plan.advice.seeds < 40
    assert drawn.artifact.manifest["plan"] == {
        "limit": 40,
        "seeds": drawn.rows_out,
        "reason": plan.advice.reason,
    }
    # the same seeds as a run that was told the number
    told = sample(*project_of(tmp_path / "told", seeds={"count": drawn.rows_out}), silent)
    frames = [pl.read_parquet(outcome.artifact.table("seed_users")) for outcome in (drawn, told)]
    assert frames[0].equals(frames[1])


def test_without_the_threshold_ids_are_those_of_before(tmp_path):
    project, marts, encoded = project_of(tmp_path, seeds={"count": 9})
    before = {"fraction": 0.1, "count": 9, "clusters": "auto", "seed": 0}
    drawn = sample(project, marts, encoded, silent)
    assert drawn.artifact.id == project.artifacts.id_of("seed_users", AS_OF, before, ["vectors-1"])
    assert "plan" not in drawn.artifact.manifest


@pytest.mark.slow
def test_the_command(tmp_path):
    tables = write_world(tmp_path / "tables", simulate(users=60, seed=1))
    make_project(tmp_path / "D", tables, {}, discover=discover_columns)
    command = [sys.executable, "-m", "reland_features", "seeds", "plan", "--project", str(tmp_path / "D"), "--json"]
    options = ["--draws", "1", "--output", str(tmp_path / "plan.md"), "--set", "encoder.options.max_epochs=2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["configured"] == 6
    assert plan["recommended"]["seeds"] in [row["seeds"] for row in plan["curve"]]
    assert "→ recommended" in (tmp_path / "plan.md").read_text()
    assert (tmp_path / "plan.png").is_file()
    assert not list((tmp_path / "D" / ".reland" / "artifacts").glob("seed_users/*"))
