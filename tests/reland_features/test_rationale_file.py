"""The file of another system's rationales: what is read of it, and every problem that it may have."""

from __future__ import annotations

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from text_files import BOTH, PROSE, TEMPLATE, jsonl

from reland_features.columns import IMPORTED_TEXTS
from reland_features.errors import CheckError, TableError
from reland_features.rationale_file import read_rationale_file


def test_parquet_and_jsonl_of_the_same_texts_are_the_same(tmp_path):
    rows = [{"user_id": 7, "text": BOTH, "model": "b", "extra": 1}, {"user_id": 3, "text": PROSE, "model": "a"}]
    pl.DataFrame(rows).write_parquet(tmp_path / "texts.parquet")
    expected = pl.DataFrame(
        {"user_id": ["3", "7"], "text": [PROSE, BOTH], "model": ["a", "b"], "has_step2": [False, True]}
    )
    for path in (tmp_path / "texts.parquet", jsonl(tmp_path / "texts.jsonl", *rows)):
        assert_frame_equal(read_rationale_file(path, TEMPLATE).texts, expected)
    assert expected.schema == IMPORTED_TEXTS.polars_schema()


def test_steps_are_a_struct_or_a_list_and_count_before_the_text(tmp_path):
    struct = {"summary": "You like war.", "categories": ["War"], "items": ["Film four"]}
    path = jsonl(
        tmp_path / "texts.jsonl",
        {"user_id": "a", "steps": struct, "text": "the raw answer"},
        {"user_id": "b", "steps": {"summary": "You like war.", "categories": None}},
        {"user_id": "c", "steps": ["You like war.", "Categories: War. Movies: Film four"]},
        {"user_id": "d", "steps": ["You like war."]},
        {"user_id": "e", "text": PROSE, "model": "other"},
    )
    frame = read_rationale_file(path, TEMPLATE, model="m").texts
    assert frame["has_step2"].to_list() == [True, False, True, False, False]
    assert frame["model"].to_list() == ["m", "m", "m", "m", "other"]
    assert json.loads(frame["text"][0]) == struct
    assert frame["text"][2] == "Step 1: You like war.\nStep 2: Categories: War. Movies: Film four"
    as_parquet = tmp_path / "texts.parquet"
    pl.DataFrame({"user_id": ["a"], "steps": [struct]}).write_parquet(as_parquet)
    assert_frame_equal(read_rationale_file(as_parquet, TEMPLATE, model="m").texts, frame.head(1))


def test_every_problem_of_the_rows_is_reported_at_once(tmp_path):
    path = jsonl(
        tmp_path / "texts.jsonl",
        {"user_id": "a", "text": "fine", "model": "m"},
        "{broken",
        {"user_id": "a", "text": "again", "model": "m"},
        {"user_id": 1.0, "text": "a float", "model": "m"},
        {"user_id": "b", "text": " ", "model": "m"},
        {"user_id": "c", "text": 5, "model": "m"},
        {"user_id": "d", "steps": {"sumary": "typo"}, "model": "m"},
        {"user_id": "e", "steps": ["one", "two", "three"], "model": "m"},
        {"user_id": "stranger", "text": "fine", "model": "m"},
        {"user_id": "f", "text": "whose?"},
    )
    with pytest.raises(CheckError) as caught:
        read_rationale_file(path, TEMPLATE, users=list("abcdef"))
    found = {problem.what.removeprefix("rows of the file "): problem.got for problem in caught.value.problems}
    assert found == {
        "are no JSON objects": "1 rows, the first row 2: '{broken'",
        "repeat a user": "1 rows, the first row 3: 'a'",
        "have a user_id that is none": "1 rows, the first row 4: '1.0'",
        "have an empty text": "1 rows, the first row 5: ' '",
        "have a text of a wrong type": "1 rows, the first row 6: '5'",
        "have steps of a wrong type": "2 rows, the first row 7: \"{'sumary': 'typo'}\"",
        "name a user that the project does not know": "1 rows, the first row 9: 'stranger'",
        "do not say who wrote them": "1 rows, the first row 10: 'None'",
    }


def test_missing_columns_are_reported_together_with_the_nearest_name(tmp_path):
    pl.DataFrame({"userid": ["a"], "answer": ["x"]}).write_parquet(tmp_path / "texts.parquet")
    with pytest.raises(CheckError) as caught:
        read_rationale_file(tmp_path / "texts.parquet", TEMPLATE)
    assert [(p.what, p.hint) for p in caught.value.problems] == [
        ("the file lacks a column user_id", "rename 'userid'?"),
        ("the file lacks a column text or steps", "rename a column to text or steps"),
        ("the file does not say who wrote its texts", "add --model NAME"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("none.parquet", None, "there is no such file"),
        ("texts.csv", b"user_id,text\n", "unknown kind"),
        ("texts.parquet", b"no parquet", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, name, content, what):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=what):
        read_rationale_file(tmp_path / name, TEMPLATE, model="m")


@pytest.mark.parametrize("lines", [[], [{"user_id": "stranger", "text": "x"}]])
def test_a_file_without_any_text_is_an_error(tmp_path, lines):
    path = jsonl(tmp_path / "texts.jsonl", *lines)
    with pytest.raises(CheckError) as caught:
        read_rationale_file(path, TEMPLATE, model="m", users=["a"], skip_unknown=True)
    assert [p.what for p in caught.value.problems] == ["the file has no text of any user"]


def test_what_is_wrong_with_a_row_that_is_left_out_does_not_matter(tmp_path):
    path = jsonl(
        tmp_path / "texts.jsonl",
        {"user_id": "a", "text": PROSE, "model": "m"},
        {"user_id": "stranger", "text": " ", "model": "m"},
        {"user_id": "stranger", "steps": 5, "model": 5},
    )
    frame, left_out = read_rationale_file(path, TEMPLATE, users=["a", "b"], skip_unknown=True)
    assert (frame["user_id"].to_list(), left_out) == (["a"], 2)
    path = jsonl(path, {"user_id": "a", "text": PROSE, "model": "m"}, {"user_id": "b", "text": " ", "model": "m"})
    with pytest.raises(CheckError, match="1 problem"):
        read_rationale_file(path, TEMPLATE, users=["a", "b"], skip_unknown=True)
