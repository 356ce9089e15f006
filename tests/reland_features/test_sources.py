"""Every problem of a source table is found, named with the value at fault, and reported with all others."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from reland_features.config import parse
from reland_features.sources import check_sources, discover_columns, source_ids

NOW = datetime(2024, 6, 1)
EVENTS = pl.DataFrame(
    {
        "uid": ["a", "a", "b", "c"],
        "iid": ["x", "y", "x", "y"],
        "at": [datetime(2024, 1, day) for day in (1, 2, 3, 4)],
        "pos": [0, 1, 0, 0],
        "stars": [1.0, 2.0, 3.0, 4.0],
    }
)
ITEMS = pl.DataFrame({"iid": ["x", "y"], "name": ["X", "Y"], "genres": [["g"], []]})
USERS = pl.DataFrame({"uid": ["a", "b"], "age": [30, None]})


@pytest.fixture
def check(tmp_path):
    """Write the tables, some replaced, and check them under a configuration, some of it replaced."""

    def run(*, events=EVENTS, items=ITEMS, users=USERS, suffix="parquet", data=None, columns=None, seeds=None):
        for name, frame in {"events": events, "items": items, "users": users}.items():
            if frame is not None:
                path = tmp_path / f"{name}.{suffix}"
                frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path)
        mapping = {
            "interactions": {
                "user_id": "uid",
                "item_id": "iid",
                "interacted_at": "at",
                "order": "pos",
                "weight": "stars",
            },
            "items": {"item_id": "iid", "title": "name", "categories": "genres"},
            "users": {"user_id": "uid", "profile": ["age"]},
        }
        for table, changed in (columns or {}).items():
            mapping[table] |= changed
        sources = {"interactions": f"events.{suffix}", "items": f"items.{suffix}", "users": f"users.{suffix}"}
        config = parse({"data": sources | {"columns": mapping} | (data or {}), "seeds": seeds or {}})
        return check_sources(config, tmp_path, NOW)

    return run


def only(problems):
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_good_tables_have_no_problem(check):
    assert check() == []
    seconds = EVENTS.with_columns(pl.col("at").dt.epoch("s"))
    texts = ITEMS.with_columns(pl.col("genres").list.join("|"))
    assert check(events=seconds, items=texts, suffix="csv") == []
    zoned = EVENTS.with_columns(pl.col("at").dt.replace_time_zone("Asia/Tokyo").dt.to_string("iso:strict"))
    assert check(events=zoned) == []


def test_missing_file_names_the_nearest(check, tmp_path):
    (tmp_path / "interactions.parquet").write_bytes(b"")
    problem = only(check(data={"interactions": "interaction.parquet"}))
    assert problem.what == "the interactions table is missing"
    assert problem.where == str(tmp_path / "interaction.parquet")
    assert "'interactions.parquet'" in problem.hint


def test_unreadable_file(check, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    assert only(check(data={"interactions": "broken.parquet"})).what == "the file cannot be read"


def test_missing_column_names_the_nearest_and_all(check):
    problem = only(check(columns={"interactions": {"user_id": "user_uid"}}))
    assert problem.what == "the interactions table has no column 'user_uid'"
    assert problem.got == "columns uid, iid, at, pos, stars"
    assert problem.hint == "did you mean 'uid'? Set data.columns.interactions.user_id"
    assert "'agee'" in only(check(columns={"users": {"profile": ["agee"]}})).what


@pytest.mark.parametrize(
    ("table", "column", "value", "got"),
    [
        ("events", "uid", pl.lit(["a"]), "VARCHAR[]"),
        ("events", "iid", pl.lit(1.0), "DOUBLE"),
        ("events", "at", pl.lit(True), "BOOLEAN"),
        ("events", "pos", pl.lit(datetime(2024, 1, 1)), "TIMESTAMP"),
        ("events", "stars", pl.lit([1.0]), "DOUBLE[]"),
        ("items", "genres", pl.lit(3), "INTEGER"),
        ("items", "genres", pl.struct(a=pl.lit(1)), "STRUCT(a INTEGER)"),
        ("items", "name", pl.lit(["T"]), "VARCHAR[]"),
    ],
)
def test_wrong_type(check, table, column, value, got):
    frame = {"events": EVENTS, "items": ITEMS}[table].with_columns(value.alias(column))
    problem = only(check(**{table: frame}))
    assert "has the wrong type" in problem.what
    assert repr(column) in problem.what
    assert problem.got.replace('"', "") == got


def test_text_that_is_no_time(check):
    problem = only(
        check(events=EVENTS.with_columns(at=pl.Series(["2024-01-01", "soon", "2024-01-02T03:04:05Z", "never"])))
    )
    assert "cannot be read as times" in problem.what
    assert problem.got == "2 rows, for example 'never'"


def test_text_that_is_no_number(check):
    problem = only(check(events=EVENTS.with_columns(stars=pl.Series(["1", "2.5", "five", "3"]))))
    assert "'stars'" in problem.what
    assert problem.got == "1 rows, for example 'five'"


@pytest.mark.parametrize("times", ["at", None])
def test_an_order_that_is_no_number(check, times):
    events = EVENTS.with_columns(pos=pl.Series([0.0, float("nan"), 1.0, float("inf")]))
    problem = only(check(events=events, columns={"interactions": {"interacted_at": times}}))
    assert problem.what == "column 'pos' of the interactions table cannot be read as numbers"
    assert problem.got == "2 rows, for example 'inf'"


@pytest.mark.parametrize(
    ("first", "step"),
    [(1_700_000_000_000, 1), (1_700_000_000, 1), (10**18, 7), (-(10**12), 1)],
    ids=["epoch_ms", "epoch_s", "ids", "before_all_years"],
)
def test_an_order_that_the_clock_cannot_show(check, first, step):
    events = EVENTS.with_columns(pos=first + step * pl.int_range(pl.len()))
    problem = only(check(events=events, columns={"interactions": {"interacted_at": None}}))
    assert problem.what.startswith("column 'pos' of the interactions table leaves the order clock")
    assert problem.got == f"4 rows, from {first} to {first + 3 * step}"
    assert "770515200" in problem.expected  # 2024-06-01
    assert "set data.columns.interactions.interacted_at to 'pos'" in problem.hint
    assert check(events=events) == []  # beside times it only breaks ties


@pytest.mark.parametrize(
    ("row", "why"), [(b"a,x,caf\xe9\n", "not utf-8"), (b"a,x,t,more\n", "Expected Number of Columns: 3 Found: 4")]
)
def test_a_row_that_no_query_passes(check, tmp_path, row, why):
    # The columns are told by the first 20,480 rows; the title is in the last one.
    many = b"".join(b"%d,i%d,t\n" % (n, n) for n in range(60_000))
    (tmp_path / "catalogue.csv").write_bytes(b"iid,code,name\n" + many.replace(b",i", b",c") + row)
    mapping = {"brand": "name", "title": "code", "categories": None}
    problems = check(users=None, data={"items": "catalogue.csv", "users": None}, columns={"items": mapping})
    problem = only(problems)
    assert problem.what == "the table cannot be read to its end"
    assert problem.where == str(tmp_path / "catalogue.csv")
    assert "CSV Error on Line: 60002" in problem.got
    assert why in problem.got


@pytest.mark.parametrize(
    ("clicks", "got"),
    [
        (["true", "maybe", "F", "1"], "1 rows, for example 'maybe'"),
        (["1.0", "0.0", "1", "no"], "2 rows, for example '0.0'"),
        ([0, 1, 2, 5], "2 rows, for example '2'"),
        (["yes", "NO", "t", "0"], None),
        ([1, 0, 1, 1], None),
        ([True, False, True, True], None),
    ],
)
def test_clicks_that_are_no_flags(check, tmp_path, clicks, got):
    shown = EVENTS.select(user_id="uid", item_id="iid", shown_at="at").with_columns(is_clicked=pl.Series(clicks))
    shown.write_parquet(tmp_path / "shown.parquet")
    problems = check(data={"impressions": "shown.parquet"})
    what = "column 'is_clicked' of the impressions table cannot be read as flags"
    assert [(p.what, p.got, p.expected) for p in problems] == (
        [(what, got, "true and false, or 1 and 0")] if got else []
    )


@pytest.mark.parametrize("column", ["uid", "iid", "at", "pos"])
def test_nulls(check, column):
    value = pl.when(pl.int_range(pl.len()) > 2).then(None).otherwise(pl.col(column))
    problem = only(check(events=EVENTS.with_columns(value.alias(column))))
    assert problem.what == f"column {column!r} of the interactions table has nulls"
    assert problem.got == "1 rows without a value"


def test_a_blank_id_is_none_and_a_padded_one_is_told(check):
    problems = check(
        events=EVENTS.with_columns(uid=pl.Series(["", "  ", "b ", "b"]), iid=pl.Series(["x", "y", "x", ""]))
    )
    assert [(problem.what, problem.got) for problem in problems] == [
        ("column 'uid' of the interactions table has nulls", "2 rows without a value"),
        (
            "column 'uid' of the interactions table has ids that begin or end with a blank",
            "1 rows; with and without blanks are two ids",
        ),
        ("column 'iid' of the interactions table has nulls", "1 rows without a value"),
    ]
    assert only(check(users=USERS.with_columns(uid=pl.Series(["a", " "])))).got == "1 rows without a value"
    assert (
        check(events=EVENTS.with_columns(uid=pl.Series([1, 1, 2, 3])), users=USERS.with_columns(uid=pl.Series([1, 2])))
        == []
    )


def test_duplicate_items_and_users(check):
    twice = pl.concat([ITEMS, ITEMS[:1], ITEMS[:1]])
    problem = only(check(items=twice))
    assert problem.what == "the items table repeats item_id"
    assert problem.got == "1 repeated, for example 'x' in 3 rows"
    assert only(check(users=pl.concat([USERS, USERS]))).got == "2 repeated, for example 'a' in 2 rows"


def test_empty_table(check):
    assert only(check(events=EVENTS[:0])).what == "the interactions table is empty"
    assert only(check(users=USERS[:0])).what == "the users table is empty"


def test_one_user_only(check):
    assert only(check(events=EVENTS[:2])).what == "there is only one user"


def test_items_without_titles(check):
    problem = only(check(items=ITEMS.with_columns(name=pl.Series([None, "  "]))))
    assert problem.got == "2 items, for example 'x'"


def test_lists_printed_as_text_are_no_categories(check):
    problem = only(check(items=ITEMS.with_columns(genres=pl.Series(["['Action', 'Drama']", "[]"])), suffix="csv"))
    assert problem.what == "categories are lists that were printed as text"
    assert problem.got == """2 rows, for example "['Action', 'Drama']\""""
    some = pl.DataFrame({"iid": ["x", "y"], "name": ["X", "Y"], "genres": ["[Deluxe]", "Drama|War"]})
    assert check(items=some, suffix="csv") == []


def test_future_times_suggest_another_unit(check):
    problem = only(check(events=EVENTS.with_columns(at=pl.Series([1_700_000_000, 1_700_000_000, 99_000_000_000, 5]))))
    assert "lies in the future" in problem.what
    assert problem.got == "1 rows, the latest 5107-03-10 08:00:00"
    assert "epoch s, ms" in problem.hint


def test_as_of_in_the_future_or_before_everything(check):
    assert only(check(data={"as_of": "2025-01-01T00:00:00"})).what == "data.as_of lies in the future"
    problem = only(check(data={"as_of": "2023-01-01T00:00:00"}))
    assert problem.what == "no interaction is left inside the window"
    assert problem.got == "interactions from 2024-01-01 00:00:00 to 2024-01-04 00:00:00"
    assert "window" in only(check(data={"as_of": "2024-05-01T00:00:00", "window_days": 3})).what
    assert check(data={"as_of": "2024-01-01T00:00:00"}) == []
    # A table without times counts from 2000 on; its clock is not compared with the present.
    assert check(columns={"interactions": {"interacted_at": None}}) == []


def test_fewer_users_than_seeds(check):
    assert only(check(seeds={"clusters": 4})).got == "3 users"
    assert only(check(seeds={"count": 10})).expected == "at least 10"
    assert check(seeds={"clusters": 3, "count": 3}) == []


def test_ids_that_do_not_meet(check):
    problem = only(check(items=ITEMS.with_columns(iid=pl.Series([1, 2]))))
    assert problem.what == "no interaction is with an item of the items table"
    assert problem.got == "item ids like 'x' and like '1'"
    assert check(items=ITEMS[:1]) == []  # dbt counts and reports what is left out


def test_users_that_do_not_meet(check):
    numbered = EVENTS.with_columns(uid=pl.Series([1, 1, 7, 10]))
    padded = USERS.with_columns(uid=pl.Series(["001", "007"]))
    problem = only(check(events=numbered, users=padded))
    assert problem.what == "no interaction is by a user of the users table"
    assert problem.got == "user ids like '1' and like '001'"
    assert "data.columns.users.user_id" in problem.hint
    assert check(users=USERS.with_columns(uid=pl.Series(["c", "new"]))) == []  # users without events are welcome


def test_a_column_of_nulls_is_one_problem(check):
    empty = EVENTS.with_columns(uid=pl.lit(None, pl.String))
    assert only(check(events=empty)).got == "4 rows without a value"


def test_ids_that_do_not_meet_are_reported_with_all_else(check):
    lost = [frame.with_columns(pl.format("-{}", pl.first()).alias(frame.columns[0])) for frame in (ITEMS, USERS)]
    problems = check(items=lost[0], users=lost[1], seeds={"count": 10})
    assert [p.what for p in problems] == [
        "there are fewer users than seeds.count asks for",
        "no interaction is with an item of the items table",
        "no interaction is by a user of the users table",
    ]


def test_all_problems_at_once(check):
    problems = check(
        events=EVENTS.with_columns(uid=pl.Series(["a", None, "b", "c"])),
        items=pl.concat([ITEMS, ITEMS]),
        users=None,
        data={"users": "people.parquet"},
        seeds={"count": 99},
    )
    assert [p.what for p in problems] == [
        "the users table is missing",
        "column 'uid' of the interactions table has nulls",
        "there are fewer users than seeds.count asks for",
        "the items table repeats item_id",
    ]


def test_memory_limit_that_is_none(check):
    assert "memory_limit" in only(check(data={"memory_limit": "lots"})).what


def test_source_ids_follow_the_content(tmp_path):
    for part in (1, 2):
        EVENTS.write_parquet(tmp_path / f"e{part}.parquet")
    ITEMS.write_parquet(tmp_path / "i.parquet")
    config = parse({"data": {"interactions": "e*.parquet", "items": "i.parquet"}})
    first = source_ids(config, tmp_path)
    assert source_ids(config, tmp_path) == first
    EVENTS[:2].write_parquet(tmp_path / "e2.parquet")
    second = source_ids(config, tmp_path)
    assert second["interactions"] != first["interactions"]
    assert second["items"] == first["items"]
    (tmp_path / "i.parquet").unlink()
    assert source_ids(config, tmp_path)["items"] == "missing"
    database = parse({"data": {"target": "postgres", "interactions": "raw.e", "items": "raw.i"}})
    assert source_ids(database, tmp_path) == {"interactions": None, "items": None}


def test_discover_columns(tmp_path):
    EVENTS.write_csv(tmp_path / "e.csv")
    assert discover_columns(tmp_path / "e.csv") == [
        ("uid", "VARCHAR"),
        ("iid", "VARCHAR"),
        ("at", "TIMESTAMP"),
        ("pos", "BIGINT"),
        ("stars", "DOUBLE"),
    ]
