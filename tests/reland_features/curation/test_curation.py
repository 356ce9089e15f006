"""Decisions on their way to what is published: who changes, and who must not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from reland_features.curation import DECISIONS, Curation, read_decisions
from reland_features.curation.editing import Desk
from reland_features.curation.words import Words, from_text, to_text
from reland_features.errors import CheckError, PoolError
from reland_features.explain import explain
from reland_features.finished_pool import FinishedPool
from reland_features.pool import ReasoningPool

STAMPS = ["pool_version", "created_timestamp"]


def most_used_seed(matches: pl.DataFrame) -> str:
    """The seed with the most users, itself included."""
    return matches.drop_nulls("seed_user_id")["seed_user_id"].value_counts().sort("count", "seed_user_id")[-1, 0]


def new_words(toy, seed: str, summary: str = "Likes films of no kind.") -> Words:
    """Words that the rules allow: a category, and a title outside the seed's history."""
    desk = Desk.of(toy.open())
    seen = set(desk.finished.histories([seed])[seed])
    title = next(row[1] for row in desk.finished.items.select("item_id", "title").iter_rows() if row[0] not in seen)
    return Words(summary, ("Western",), (title,))


def test_without_decisions_the_pool_keeps_its_id_and_its_folder(toy):
    first = toy.build()
    assert "curation" not in first["pool"].artifact.manifest["config"]
    assert not (first["pool"].artifact.path / "curation.json").exists()
    assert not (toy.root / ".reland" / DECISIONS).exists()
    assert toy.build()["pool"].cached


def test_a_blocked_seed_loses_its_users_to_the_next_seed_and_nobody_else_changes(toy):
    first = toy.build()
    matches = pl.read_parquet(first["match"].artifact.table("matches"))
    seed = most_used_seed(matches)
    had = matches.filter(pl.col("seed_user_id") == seed)["user_id"].to_list()
    assert seed in had
    assert len(had) > 1
    Desk.of(toy.open()).block(seed, "ann", "rude")
    second = toy.build()
    assert second["generate"].cached
    assert second["pool"].artifact.manifest["pool_version"] != first["pool"].artifact.manifest["pool_version"]
    # Eq. (3) over the remaining seeds, by hand.
    pool = ReasoningPool.read(first["pool"].artifact.path)
    vectors = pl.read_parquet(first["encode"].artifact.table("behavior_vectors"))
    rows = dict(zip(vectors["user_id"], vectors["vector"].to_numpy(), strict=True))
    left = [(s, rows[s] / np.linalg.norm(rows[s])) for s in pool.frame["seed_user_id"] if s != seed]
    matched = dict(toy.published(second, "user_seed_match").select("user_id", "seed_user_id").iter_rows())
    for user in had:
        cosines = [(round(float(rows[user] @ unit / np.linalg.norm(rows[user])), 9), s) for s, unit in left]
        assert matched[user] == min(s for c, s in cosines if c == max(cosines)[0])
    others = ~pl.col("user_id").is_in(had)
    for table in ("user_rationale", "user_seed_match"):
        before, after = (toy.published(o, table).filter(others).drop(STAMPS) for o in (first, second))
        assert before.height == 30 - len(had)
        assert_frame_equal(before, after, check_exact=True)


def test_the_blocked_seeds_row_is_covered_by_one_without_content(toy):
    first = toy.build()
    seed = ReasoningPool.read(first["pool"].artifact.path).frame["seed_user_id"][2]
    Desk.of(toy.open()).block(seed, "ann", "rude")
    second = toy.build()
    before, after = (toy.published(o, "seed_rationale") for o in (first, second))
    assert after["seed_user_id"].to_list() == before["seed_user_id"].to_list()
    covered = after.filter(pl.col("seed_user_id") == seed).row(0, named=True)
    content = ("rationale_embedding", "rationale_components", "summary", "categories", "items")
    assert [covered[name] for name in content] == [None] * 5
    assert covered["created_timestamp"] > before["created_timestamp"][0]
    rest = pl.col("seed_user_id") != seed
    assert_frame_equal(before.filter(rest).drop(STAMPS), after.filter(rest).drop(STAMPS), check_exact=True)


def test_unblocking_serves_the_same_rows_again_in_a_newer_run(toy):
    first = toy.build()
    seed = most_used_seed(pl.read_parquet(first["match"].artifact.table("matches")))
    Desk.of(toy.open()).block(seed, "ann", "rude")
    second = toy.build()
    Desk.of(toy.open()).unblock(seed, "ann")
    third = toy.build()
    assert len({o["publish"].artifact.id for o in (first, second, third)}) == 3
    assert (
        toy.published(third, "user_rationale")["created_timestamp"][0]
        > (toy.published(second, "user_rationale")["created_timestamp"][0])
    )
    for table in ("user_rationale", "user_seed_match", "seed_rationale"):
        before, after = (toy.published(o, table).drop(STAMPS) for o in (first, third))
        assert_frame_equal(before, after, check_exact=True)


def test_an_edited_rationale_is_embedded_anew_and_marked_wherever_it_is_read(toy):
    first = toy.build()
    matches = pl.read_parquet(first["match"].artifact.table("matches"))
    seed = most_used_seed(matches)
    words = new_words(toy, seed)
    Desk.of(toy.open()).edit(seed, words, "ann", "wrong genre")
    second = toy.build()
    pools = [ReasoningPool.read(o["pool"].artifact.path) for o in (first, second)]
    row = pools[0].frame["seed_user_id"].to_list().index(seed)
    assert pools[1].frame.row(row, named=True)["items"] == list(words.items)
    assert not np.allclose(pools[0].embeddings[row], pools[1].embeddings[row])
    rest = pl.col("seed_user_id") != seed
    assert_frame_equal(pools[0].frame.filter(rest), pools[1].frame.filter(rest), check_exact=True)
    (decision,) = read_decisions(toy.root / ".reland" / DECISIONS)
    said = f"edited by ann, {decision.decided_at[:16].replace('T', ' ')} UTC"
    published = toy.published(second, "seed_rationale").filter(~rest)["summary"][0]
    assert published == f"Likes films of no kind. [{said}]"
    served = toy.published(second, "user_rationale").filter(pl.col("seed_user_id") == seed)
    assert set(served["summary"]) == {"Likes films of no kind."}
    explained = explain(toy.open(), served["user_id"][0])
    assert explained.curated == said
    assert f"rationale of pool {explained.pool_version}, {said}" in explained.text()
    other = toy.published(second, "user_rationale").filter(pl.col("seed_user_id") != seed)["user_id"][0]
    assert explain(toy.open(), other).curated is None


def test_an_edit_is_out_of_date_once_the_llm_has_written_another_rationale(toy, caplog):
    seed = ReasoningPool.read(toy.build()["pool"].artifact.path).frame["seed_user_id"][0]
    Desk.of(toy.open()).edit(seed, new_words(toy, seed), "ann")
    made = toy.build("rationales.model=another")
    frame = ReasoningPool.read(made["pool"].artifact.path).frame
    assert frame.filter(pl.col("seed_user_id") == seed)["summary"][0] != "Likes films of no kind."
    assert Curation.read(made["pool"].artifact.path).replaced == {}
    (told,) = [record.getMessage() for record in caplog.records if record.name == "reland_features.stages.serving"]
    assert told.startswith(f"1 edited rationales are no longer in force, as the LLM has written others since: {seed};")


def test_an_edit_is_checked_as_an_answer_is_and_force_takes_it(toy):
    toy.build()
    desk = Desk.of(toy.open())
    seed = desk.finished.pool.frame["seed_user_id"][0]
    titles = dict(desk.finished.items.select("item_id", "title").iter_rows())
    seen = titles[desk.finished.histories([seed])[seed][0]]
    with pytest.raises(CheckError) as caught:
        desk.edit(seed, Words("...", ("Dramma", "Crime", "Horror", "Comedy"), ("Film 999", seen)), "ann")
    whats = [problem.what for problem in caught.value.problems]
    assert whats == [
        "too many categories",
        "the catalogue does not know this name",
        "the catalogue does not know this name",
        "the user has this item already",
        "there is no Step 1 sentence",
    ]
    assert "Drama" in caught.value.problems[1].expected
    assert read_decisions(toy.root / ".reland" / DECISIONS) == ()
    desk.edit(seed, Words("Forced.", ("Dramma",), (seen,)), "ann", force=True)
    frame = ReasoningPool.read(toy.build()["pool"].artifact.path).frame
    assert frame.filter(pl.col("seed_user_id") == seed).select("summary", "categories", "items").row(0) == (
        "Forced.",
        ["Dramma"],
        [seen],
    )


def test_an_unusable_answer_is_not_edited_into_one_that_no_pool_can_be_built_from(toy):
    lax = ("rationales.max_failed_fraction=0.9", "rationales.options.outcomes=['invalid','ok']")
    made = toy.build(*lax)
    generated = pl.read_parquet(made["generate"].artifact.table("rationales"))
    seed = generated.filter(status="invalid")["seed_user_id"][0]
    desk = Desk.of(toy.open(*lax))
    with pytest.raises(CheckError) as caught:
        desk.edit(seed, Words("Likes calm films."), "ann")
    assert [problem.what for problem in caught.value.problems] == [
        "no title is recommended",
        "no category is recommended",
    ]
    with pytest.raises(CheckError, match="nothing of this rationale would be embedded"):
        desk.edit(seed, Words("Likes calm films."), "ann", force=True)
    assert read_decisions(toy.root / ".reland" / DECISIONS) == ()


def test_other_spellings_of_a_name_are_recorded_as_the_catalogue_has_them(toy):
    toy.build()
    seed = Desk.of(toy.open()).finished.pool.frame["seed_user_id"][0]
    words = new_words(toy, seed)
    decision = Desk.of(toy.open()).edit(seed, Words(words.summary, ("western",), (words.items[0].upper(),)), "ann")
    assert (decision.categories, decision.items) == (("Western",), words.items)


def test_wrong_seeds_and_repeated_decisions_are_refused(toy):
    toy.build()
    desk = Desk.of(toy.open())
    seed = desk.finished.pool.frame["seed_user_id"][0]
    with pytest.raises(PoolError, match="no seed user"):
        desk.block("nobody", "ann", "x")
    with pytest.raises(PoolError, match="not blocked"):
        desk.unblock(seed, "ann")
    with pytest.raises(PoolError, match="not edited"):
        desk.restore(seed, "ann")
    desk.block(seed, "ann", "rude")
    with pytest.raises(PoolError, match="not served already"):
        Desk.of(toy.open()).block(seed, "bob", "rude too")


def test_a_pool_whose_every_rationale_is_blocked_is_refused_before_anything_is_published(toy):
    seeds = ReasoningPool.read(toy.build()["pool"].artifact.path).frame["seed_user_id"].to_list()
    desk = Desk.of(toy.open())
    for seed in seeds:
        desk.block(seed, "ann", "all of them")
    runs = sorted((toy.root / "features" / "user_rationale").iterdir())
    with pytest.raises(PoolError, match="no seed user has a usable rationale"):
        toy.build()
    assert sorted((toy.root / "features" / "user_rationale").iterdir()) == runs


def test_words_survive_the_way_through_an_editor():
    words = Words('He said "no" – é', ("A, B",), ("X (1999)", "Y"))
    assert from_text(to_text(words), Words("old"), "editor") == words
    assert from_text('{"summary": "new"}', words, "file") == Words("new", words.categories, words.items)
    with pytest.raises(PoolError, match="not the words"):
        from_text('title = "x"', words, "file")


def test_kill_9_right_after_a_decision_loses_nothing(toy):
    """The process dies as soon as `block` has returned; the next build blocks the seed."""
    seed = ReasoningPool.read(toy.build()["pool"].artifact.path).frame["seed_user_id"][0]
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from reland_features.curation.editing import Desk; from reland_features.project import Project\n"
        "Desk.of(Project.open(Path(sys.argv[1]))).block(sys.argv[2], 'ann', 'rude')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(toy.root), seed], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    made = toy.build()
    assert seed not in ReasoningPool.read(made["pool"].artifact.path).frame["seed_user_id"].to_list()
    stored = json.loads((made["pool"].artifact.path / "curation.json").read_text())
    assert [(row["seed_user_id"], row["author"], row["reason"]) for row in stored["blocked"]] == [(seed, "ann", "rude")]
    assert list(FinishedPool.find(toy.open()).curation.blocked) == [seed]
