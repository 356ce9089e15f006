from __future__ import annotations

import sqlite3

import pytest

from reland_features.curation import Curation, Decision, mark, read_decisions, record_decision
from reland_features.errors import ArtifactError

AT = "2026-11-21T10:12:33.000001"


def test_decisions_come_back_as_they_were_taken_and_in_order(tmp_path):
    path = tmp_path / "state" / "decisions.sqlite"
    edit = Decision("1", "edit", "ann", AT, "wrong", "k", "Likes é", ("A, B",), ("X", "Y"), "raw", "k2")
    block = Decision("1", "block", "bob", AT, "rude")
    record_decision(path, edit)
    record_decision(path, block)
    assert read_decisions(path) == (edit, block)


def test_reading_makes_no_file(tmp_path):
    assert read_decisions(tmp_path / "decisions.sqlite") == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statement", ["update decisions set author = 'eve'", "delete from decisions"])
def test_a_decision_cannot_be_changed_or_deleted(tmp_path, statement):
    path = tmp_path / "decisions.sqlite"
    record_decision(path, Decision("1", "block", "ann", AT, "rude"))
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.IntegrityError, match="never"):
        connection.execute(statement)
    assert read_decisions(path)[0].author == "ann"


def test_a_file_that_is_not_ours_is_named(tmp_path):
    path = tmp_path / "decisions.sqlite"
    path.write_text("not a database, and long enough to be read as one" * 20)
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        read_decisions(path)
    assert str(path) in caught.value.where


def test_later_decisions_win_and_blocking_keeps_an_edit():
    edit = Decision("1", "edit", "ann", AT, summary="new", replaces="k")
    block = Decision("1", "block", "ann", AT)
    found = Curation.of([edit, block])
    assert (found.blocked, found.replaced) == ({"1": block}, {"1": edit})
    found = Curation.of([edit, block, Decision("1", "unblock", "ann", AT), Decision("1", "restore", "ann", AT)])
    assert (found.blocked, found.replaced) == ({}, {})


def test_every_decision_makes_another_id_also_one_taken_back_but_not_an_unusable_answer():
    block, unblock = Decision("1", "block", "ann", AT), Decision("1", "unblock", "ann", AT)
    ids = [Curation.of(log).curation_id for log in ([], [block], [block, unblock], [block, unblock, block])]
    assert ids[0] == ""
    assert len(set(ids)) == 4
    assert Curation.of([block, Decision("2", "unusable", "ann", AT)]).curation_id == ids[1]


def test_a_mark_says_what_who_and_when():
    assert mark(Decision("1", "edit", "ann", AT)) == "edited by ann, 2026-11-21 10:12 UTC"
