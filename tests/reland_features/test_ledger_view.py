"""The attempts of one seed user, where two seeds have the same prompt and thus one request."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from reland_features.cli import app
from reland_features.ledger_view import attempts
from reland_features.project import Project
from reland_features.stages import Outcome, generate

WHEN = datetime(2024, 1, 1)
SHOWN = ["i1", "i2"]
OLDER = {"a": "i3", "b": "i4", "c": "i5"}  # not shown, and not to be recommended


@pytest.fixture
def project(tmp_path, llm_server, completion, monkeypatch) -> Project:
    """Three seeds, two of the same prompt; the LLM recommends what b has seen before."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = "Step 1: You like films.\nStep 2:\nCategories: Drama\nMovies:\n1. Film 4"
    llm_server.answer = lambda body: completion(text, usage={"prompt_tokens": 50, "completion_tokens": 30})
    (tmp_path / "reland.toml").write_text(
        f"""
[data]
interactions = "none.parquet"
items = "none.parquet"
[rationales]
prompt = "movies"
engine = "openai"
model = "m"
max_history = 2
max_attempts = 1
max_failed_fraction = 1.0
[rationales.options]
base_url = "{llm_server.url}"
"""
    )
    found = Project.open(tmp_path)
    histories = {user: [older, *(SHOWN if user != "c" else SHOWN[::-1])] for user, older in OLDER.items()}
    tables = {
        "interactions": pl.DataFrame(
            [(user, item, n) for user, items in histories.items() for n, item in enumerate(items, 1)],
            schema=["user_id", "item_id", "interaction_order"],
            orient="row",
        ),
        "items": pl.DataFrame(
            [(f"i{n}", f"Film {n}", ["Drama"], 1) for n in range(1, 8)],
            schema=["item_id", "title", "categories", "interaction_count"],
            orient="row",
        ),
        "user_histories": pl.DataFrame(
            {"user_id": list(histories), "item_ids": list(histories.values()), "interaction_count": [3, 3, 3]}
        ),
        "seed_users": pl.DataFrame({"user_id": list(histories)}),
    }
    made = {}
    for number, (kind, names) in enumerate({"marts": list(tables)[:3], "seed_users": ["seed_users"]}.items()):
        created = WHEN + timedelta(minutes=number)
        with found.artifacts.create(kind, f"{kind}-1", created_at=created, config={}, inputs=[], as_of=WHEN) as draft:
            for name in names:
                tables[name].write_parquet(draft.table(name))
            draft.facts |= {"rows_in": 3, "rows_out": 3, "seconds": 0.0}
        artifact = found.artifacts.find(kind, f"{kind}-1")
        assert artifact is not None
        made[kind] = Outcome("any", artifact, cached=True)
    generate(found, made["marts"], made["seed_users"], lambda done, total: None)
    assert len(llm_server.requests) == 2
    return found


def test_a_seed_that_shares_its_request_has_the_attempts_of_it(project):
    assert attempts(project).height == 2
    (own,) = attempts(project, "a").iter_rows(named=True)
    (shared,) = attempts(project, "b").iter_rows(named=True)
    assert (own["attempt"], own["seed_user_id"], own["status"]) == (shared["attempt"], "a", "ok")
    # The same answer is read as b may use it: b has seen the film.
    assert (shared["seed_user_id"], shared["status"]) == ("a", "invalid")
    assert shared["reason"].startswith("no title of the catalogue outside the history")
    (other,) = attempts(project, "c").iter_rows(named=True)
    assert (other["seed_user_id"], other["status"]) == ("c", "ok")
    assert attempts(project, "nobody").height == 0


def test_the_command_says_whom_it_was_asked_for(project):
    def shown(seed: str):
        return CliRunner().invoke(app, ["ledger", "show", "--seed", seed, "--project", str(project.root)])

    said = shown("b")
    assert "(asked for a: the same prompt)\ninvalid (no title" in said.stdout
    assert "1. Film 4" in said.stdout
    assert "1 attempts for seed user b" in said.stderr
    assert "asked for" not in shown("a").stdout
