from datetime import datetime, timedelta

import polars as pl

from reland_features.interactions import Interactions, empty_interactions

START = datetime(2024, 1, 1)


def interactions(rows):
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "interaction_order"], orient="row").with_columns(
        interacted_at=pl.lit(START) + pl.duration(days=pl.col("interaction_order"))
    )
    return Interactions.from_frame(frame)


ROWS = [("b", "y", 2), ("a", "x", 1), ("b", "x", 1), ("a", "z", 2), ("a", "y", 3), ("c", "y", 1)]


def test_rows_are_numbered_by_sorted_ids_in_user_and_time_order():
    table = interactions(ROWS)
    assert table.user_ids.to_list() == ["a", "b", "c"]
    assert table.item_ids.to_list() == ["x", "y", "z"]
    assert table.user_rows.tolist() == [0, 0, 0, 1, 1, 2]
    assert table.item_rows.tolist() == [0, 2, 1, 0, 1, 1]
    assert table.counts.tolist() == [3, 2, 1]
    assert table.offsets.tolist() == [0, 3, 5, 6]


def test_leave_last_out_keeps_users_with_too_few_whole():
    rest, last = interactions(ROWS).leave_last_out(minimum=2)
    assert rest.frame.select("user_id", "item_id").rows() == [("a", "x"), ("a", "z"), ("b", "x"), ("c", "y")]
    assert last.frame.select("user_id", "item_id").rows() == [("a", "y"), ("b", "y")]


def test_as_of_keeps_its_own_instant():
    kept = interactions(ROWS).as_of(START + timedelta(days=2))
    assert kept.frame.height == 5


def test_no_interactions_have_no_users():
    assert len(empty_interactions().user_ids) == 0
    assert empty_interactions().counts.tolist() == []
