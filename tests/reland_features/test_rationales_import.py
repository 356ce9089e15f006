"""Rationales brought from elsewhere: `reland rationales import FILE`, then a run that asks no LLM."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from reland_features import stages
from reland_features.check import check_parts
from reland_features.cli import app
from reland_features.curation.decisions import DECISIONS, Decision, record_decision
from reland_features.demo.simulator import simulate, write_world
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import CheckError
from reland_features.explain import explain
from reland_features.imported_texts import import_texts
from reland_features.init import make_project
from reland_features.pipeline import run
from reland_features.project import Project
from reland_features.prompts import rationale_text
from reland_features.sources import discover_columns
from reland_features.stages.base import Outcome, text_encoder

GENRES = ("Comedy", "Drama", "War")
TITLES = [f"Film {n}" for n in range(40)]


def write_texts(project: Path, users: list[str], titles: list[str]) -> None:
    """Write both steps for every second user, and Step 1 only for every second one of the others."""
    lists = {"categories": list(GENRES), "items": titles}  # titles of the user's history are passed over
    rows = [
        {"user_id": user, "steps": {"summary": f"You are user {user}.", **(lists if n % 2 else {})}}
        for n, user in enumerate(users)
        if n % 4
    ]
    (project / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def import_into(project: Path, *arguments: str) -> dict:
    done = CliRunner().invoke(
        app, ["rationales", "import", str(project / "texts.jsonl"), "--json", "-C", str(project), *arguments]
    )
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def project(tmp_path) -> Path:
    """60 users, as `prepare` and `encode` would leave them, and an import for 45 of them."""
    users = [f"u{n:02}" for n in range(60)]
    (tmp_path / "reland.toml").write_text('[data]\ninteractions = "i.csv"\nitems = "i.csv"\n[seeds]\ncount = 8\n')
    store = Project.open(tmp_path).artifacts
    made = {"created_at": datetime(2026, 1, 1), "as_of": datetime(2025, 1, 1), "config": {}, "inputs": []}
    with store.create("marts", "marts-1", **made) as draft:
        pl.DataFrame({"user_id": users, "interaction_count": 5}).write_parquet(draft.table("users"))
        histories = {"user_id": users, "item_ids": [[f"i{n % 40}", f"i{(n + 1) % 40}"] for n in range(60)]}
        pl.DataFrame(histories).write_parquet(draft.table("user_histories"))
        events = pl.DataFrame(histories).explode("item_ids").rename({"item_ids": "item_id"})
        order = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
        events.with_columns(interaction_order=order).write_parquet(draft.table("interactions"))
        items = {"item_id": [f"i{n}" for n in range(40)], "title": TITLES, "categories": [list(GENRES)] * 40}
        pl.DataFrame(items).with_columns(interaction_count=1).write_parquet(draft.table("items"))
    with store.create("behavior_vectors", "vectors-1", **made) as draft:
        vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        BehaviorVectors(pl.Series(users), vectors, "toy", made["as_of"]).write(draft.table("behavior_vectors"))
        draft.facts["encoder_id"] = "toy"
    write_texts(tmp_path, users, TITLES)
    return tmp_path


def stages_of(project: Path, *settings: str) -> dict[str, Outcome]:
    """Run sample, generate and pool on what the fixture left."""
    opened = Project.open(project, settings)
    found = opened.artifacts.all("marts") + opened.artifacts.all("behavior_vectors")
    marts, encoded = (Outcome("", artifact, cached=True) for artifact in found)
    seeds = stages.sample(opened, marts, encoded, print)
    rationales = stages.generate(opened, marts, seeds, print)
    pool = stages.build_pool(opened, encoded, seeds, rationales, print)
    return {"sample": seeds, "generate": rationales, "pool": pool}


@pytest.mark.slow
def test_a_run_on_imported_texts_ends_in_features_report_and_explanations(tmp_path):
    project = tmp_path / "D"
    world = write_world(project / "tables", simulate(users=60, seed=1))
    make_project(project, world, {}, discover=discover_columns)
    toml = (project / "reland.toml").read_text().replace("fraction = 0.1", "count = 8")
    toml += '[encoder.options]\nmax_epochs = 2\n[match]\nmatcher = "exact"\n[feast]\nmaterialize = false\n'
    (project / "reland.toml").write_text(toml.replace("[evaluation]", "[evaluation]\ncommand = []"))
    users = pl.read_parquet(world["users"])["user_id"].cast(pl.String).sort().to_list()
    write_texts(project, users, pl.read_parquet(world["items"])["title"].head(200).to_list())
    made = import_into(project, "--model", "gpt")
    assert made["settings"] == {
        "engine": "imported",
        "model": made["import"],
        "embed": "summary",
    }  # some have no Step 2
    settings = [f"rationales.{key}={value}" for key, value in made["settings"].items()]
    opened = Project.open(project, [*settings, "rationales.embed=summary"])
    done = run(opened)
    pool = pl.read_parquet(done.outcomes["pool"].artifact.path / "reasoning_pool.parquet")
    assert pool["summary"].to_list() == [f"You are user {user}." for user in pool["seed_user_id"]]
    expected = text_encoder(opened).encode(pool["summary"].to_list())
    np.testing.assert_allclose(np.stack(pool["rationale_embedding"].to_list()), expected, atol=1e-6)
    published = pl.read_parquet(next((project / "features" / "user_rationale").glob("*.parquet")))
    assert published["seed_user_id"].null_count() == 0
    assert published.height == 60
    alone = pool.filter(pl.col("items").list.len() == 0)["seed_user_id"].to_list()
    assert 0 < len(alone) < 8
    assert done.outcomes["generate"].artifact.manifest["step1_only"] == len(alone)
    assert done.report is not None
    report = done.report.read_text()
    assert f"imported:gpt:{made['import']}" in report
    assert "imported from texts.jsonl" in report
    assert f"{len(alone)} rationales have Step 1 only" in report
    text = explain(opened, published.filter(pl.col("seed_user_id").is_in(alone))["user_id"][0]).text()
    assert "Step 1 only" in text
    assert "categories:" not in text


def test_seeds_have_what_is_embedded_and_ids_follow_the_texts_and_what_is_read_of_them(project):
    made = import_into(project, "--model", "gpt")
    assert (made["texts"], made["with_step2"], made["models"]) == (45, 30, ["gpt"])
    use = ["rationales.engine=imported", f"rationales.model={made['import']}"]
    step2 = stages_of(project, *use)
    both = stages_of(project, *use, "rationales.embed=both")
    step1 = stages_of(project, *use, "rationales.embed=summary")
    ids = [{stage: outcome.artifact.id for stage, outcome in done.items()} for done in (step2, both, step1)]
    assert ids[0]["sample"] == ids[1]["sample"] != ids[2]["sample"]
    assert ids[0]["generate"] == ids[1]["generate"] != ids[2]["generate"]
    assert len({one["pool"] for one in ids}) == 3
    frame = pl.read_parquet(step2["generate"].artifact.table("rationales"))
    assert frame["status"].to_list() == ["ok"] * 8
    assert frame["items"].list.len().to_list() == [3] * 8
    changed = stages_of(project, use[0], f"rationales.model={import_into(project, '--model', 'other')['import']}")
    assert not {outcome.artifact.id for outcome in changed.values()} & set(ids[0].values())


def test_an_edit_holds_when_the_file_is_brought_in_again_and_lapses_when_its_text_changed(project):
    def pool(*rows: str) -> tuple[dict[str, str], pl.DataFrame]:
        (project / "texts.jsonl").write_text("".join(f"{row}\n" for row in rows))
        made = import_into(project, "--model", "gpt")
        done = stages_of(project, "rationales.engine=imported", f"rationales.model={made['import']}")
        frame = pl.read_parquet(done["pool"].artifact.table("reasoning_pool"))
        keys = pl.read_parquet(done["generate"].artifact.table("rationales")).select("seed_user_id", "ledger_key")
        return dict(frame.select("seed_user_id", "summary").iter_rows()), keys

    rows = (project / "texts.jsonl").read_text().splitlines()
    spare = next(row for row in rows if '"items"' not in row)  # Step 1 alone: no seed of these pools
    _, keys = pool(*(row for row in rows if row != spare))
    seed, key = keys.row(0)
    words = {"summary": "Edited.", "categories": ("War",), "items": ("Film 39",)}
    record_decision(project / ".reland" / DECISIONS, Decision(seed, "edit", "ann", "2026-01-01", "", key, **words))
    assert pool(*rows)[0][seed] == "Edited."
    changed = [row.replace(f"You are user {seed}.", "You changed.") for row in rows]
    assert pool(*changed)[0][seed] == "You changed."


@pytest.mark.parametrize("name", ["kept.parquet", "kept.jsonl"])
def test_what_was_exported_is_imported_as_the_same_rationales_without_a_call(project, name):
    columns = ["seed_user_id", "summary", "categories", "items"]
    paid = pl.read_parquet(stages_of(project, "rationales.engine=dummy")["pool"].artifact.table("reasoning_pool"))
    file = project / "out" / name
    done = CliRunner().invoke(app, ["rationales", "export", str(file), "--json", "-C", str(project)])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout.splitlines()[-1])["texts"] == 8
    assert [path.name for path in file.parent.iterdir()] == [name]
    made = import_texts(Project.open(project), file)
    assert made.facts["models"] == ["dummy:smollm2-135m-instruct"]
    again = stages_of(
        project, *(f"rationales.{key}={value}" for key, value in made.settings("recommendations").items())
    )
    kept = pl.read_parquet(again["pool"].artifact.table("reasoning_pool"))
    assert_frame_equal(kept.select(columns), paid.select(columns))
    assert again["generate"].artifact.manifest["usage"]["total"]["prompt_tokens"] == 0


def test_the_embedding_is_that_of_the_part_named(project):
    made = import_into(project, "--model", "gpt")
    use = ["rationales.engine=imported", f"rationales.model={made['import']}"]
    encode = text_encoder(Project.open(project)).encode
    for embed in ("recommendations", "summary", "both"):
        done = stages_of(project, *use, f"rationales.embed={embed}")["pool"].artifact
        pool = pl.read_parquet(done.table("reasoning_pool"))
        parts = pool.select("summary", "categories", "items").rows()
        expected = encode([rationale_text(embed, *row) for row in parts])
        np.testing.assert_allclose(np.stack(pool["rationale_embedding"].to_list()), expected, atol=1e-5)
        assert pool["summary"].to_list() == [f"You are user {user}." for user in pool["seed_user_id"]]
        assert done.manifest["embedded"] == embed


def test_what_is_embedded_by_default_leaves_a_pool_the_id_it_had(project):
    config = stages_of(project, "rationales.engine=dummy")["pool"].artifact.manifest["config"]
    assert set(config) == {"text_encoder_id", "components"}


def test_check_finds_an_import_that_cannot_be_used(project):
    made = import_into(project, "--model", "gpt")
    (project / "dbt").mkdir()
    (project / "feature_repo").mkdir()
    use = ["rationales.engine=imported"]
    assert check_parts(Project.open(project, [*use, f"rationales.model={made['import']}"])) == []
    assert [p.what for p in check_parts(Project.open(project, use))] == ["there is no such import"]


def test_users_are_checked_against_the_marts(project):
    path = project / "strangers.jsonl"
    path.write_text('{"user_id": "stranger", "text": "x"}\n{"user_id": "u01", "text": "y"}\n')
    with pytest.raises(CheckError) as caught:
        import_texts(Project.open(project), path, model="gpt")
    assert [p.what for p in caught.value.problems] == ["rows of the file name a user that the project does not know"]
    assert import_texts(Project.open(project), path, model="gpt", skip_unknown=True).facts["texts"] == 1


def test_users_that_the_marts_made_last_do_not_have_keep_their_texts(project):
    whole = import_into(project, "--model", "gpt")
    made = {"created_at": datetime(2026, 1, 2), "as_of": datetime(2024, 1, 3), "config": {}, "inputs": []}
    with Project.open(project).artifacts.create("marts", "marts-0", **made) as draft:  # features as of an earlier day
        pl.DataFrame({"user_id": ["u01", "u02"], "interaction_count": 1}).write_parquet(draft.table("users"))
    with (project / "texts.jsonl").open("a") as file:
        file.write('{"user_id": "stranger", "text": "x"}\n')
    again = import_into(project, "--model", "gpt", "--skip-unknown")
    assert (again["import"], again["texts"], again["left_out"]) == (whole["import"], 45, 1)
    arguments = ["rationales", "import", str(project / "texts.jsonl"), "-C", str(project), "--model", "gpt"]
    told = CliRunner().invoke(app, [*arguments, "--skip-unknown"])
    assert "1 rows were left out, of users that the project does not know" in told.stderr


@pytest.mark.parametrize("embed", ["recommendations", "summary", "both"])
def test_the_lines_printed_keep_what_the_project_embeds_where_all_texts_have_it(project, embed):
    rows = (project / "texts.jsonl").read_text().splitlines()
    with_step2 = [row for row in rows if '"items"' in row]

    def printed(rows: list[str]) -> tuple[str, str]:
        (project / "texts.jsonl").write_text("".join(f"{row}\n" for row in rows))
        setting = ["--model", "gpt", "--set", f"rationales.embed={embed}"]
        arguments = ["rationales", "import", str(project / "texts.jsonl"), "-C", str(project), *setting]
        return import_into(project, *setting)["settings"]["embed"], CliRunner().invoke(app, arguments).stderr

    found, told = printed(with_step2)
    assert found == embed
    assert f'embed = "{embed}"' in told
    found, told = printed([*with_step2, next(row for row in rows if '"items"' not in row)])
    assert found == "summary"
    assert ("rankers must be trained anew" in told) == (embed != "summary")
