"""The parts of a split, from marts and from frames."""

import numpy as np
import polars as pl
import pytest

from ranking.splits import Split
from reland_features.errors import ConfigError, TableError


def frame(*pairs):
    return pl.DataFrame(pairs, schema={"user_id": pl.String, "item_id": pl.String}, orient="row")


@pytest.fixture
def split():
    """b has 4 events of which 2 are held out, a has 6 of which 4 are, c has one."""
    return Split.from_frames(
        frame(("b", "x"), ("a", "z"), ("c", "y"), ("b", "y"), ("a", "x")),
        frame(("a", "w"), ("a", "v"), ("a", "y"), ("a", "q"), ("b", "w"), ("b", "z")),
    )


def ids(split, pairs):
    users, items = pairs
    return list(zip(split.user_ids.gather(users).to_list(), split.item_ids.gather(items).to_list(), strict=True))


def test_events_are_in_user_and_time_order_and_cut_in_three(split):
    assert split.user_ids.to_list() == ["a", "b", "c"]
    assert split.item_ids.to_list() == ["q", "v", "w", "x", "y", "z"]
    assert ids(split, split.training_pairs()) == [("a", "z"), ("a", "x"), ("b", "x"), ("b", "y"), ("c", "y")]
    assert ids(split, split.targets("validation")) == [("a", "w"), ("a", "v"), ("b", "w")]
    assert ids(split, split.targets("test")) == [("a", "y"), ("a", "q"), ("b", "z")]
    seen = [("a", "z"), ("a", "x"), ("a", "w"), ("a", "v"), ("b", "x"), ("b", "y"), ("b", "w"), ("c", "y")]
    assert ids(split, split.seen("test")) == seen
    assert split.history_lengths("test").tolist() == [4, 3, 1]


def test_cutting_histories_keeps_the_last_and_what_is_held_out(split):
    cut = split.keep_last(1)
    assert ids(cut, cut.training_pairs()) == [("a", "x"), ("b", "y"), ("c", "y")]
    for part in ("validation", "test"):
        assert ids(cut, cut.targets(part)) == ids(split, split.targets(part))
    assert ids(cut, cut.history("test")) == [("a", "x"), ("a", "w"), ("a", "v"), ("b", "y"), ("b", "w"), ("c", "y")]
    for part in ("validation", "test"):
        assert sorted(ids(cut, cut.seen(part))) == sorted(ids(split, split.seen(part))), "a cut user has seen the rest"
        assert sorted(cut.seen(part)[0].tolist()) == cut.seen(part)[0].tolist()


def test_cutting_twice_is_cutting_once(split):
    once, twice = split.keep_last(1), split.keep_last(2).keep_last(1)
    assert ids(twice, twice.training_pairs()) == ids(once, once.training_pairs())
    assert sorted(ids(twice, twice.seen("test"))) == sorted(ids(once, once.seen("test")))


@pytest.mark.parametrize("count", [0, -1])
def test_cutting_to_nothing_is_refused(split, count):
    with pytest.raises(ConfigError, match="one interaction at least") as error:
        split.keep_last(count)
    assert error.value.got == str(count)


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        ({"item_id": pl.Series(["x", None])}, "1 null item_id"),
        ({"user_id": pl.Series([None, "a"])}, "1 null user_id"),
        ({"item_id": pl.Series([1, 2])}, "item_id is Int64 in the training part and String in what is held out"),
    ],
)
def test_ids_that_are_no_rows_are_one_error_that_says_so(changed, got):
    training = frame(("a", "x"), ("a", "y")).with_columns(**changed)
    with pytest.raises(TableError, match="no rows of a split") as error:
        Split.from_frames(training, frame(("a", "z"), ("a", "x")), where="a frame")
    assert (error.value.where, error.value.got) == ("a frame", got)


def test_the_marts_of_a_project_give_leave_one_out(project):
    split = Split.of(project)
    holdout = pl.read_parquet(project.mart("holdout")).sort("user_id")
    for part, rank in (("test", 1), ("validation", 2)):
        expected = holdout.filter(pl.col("holdout_rank") == rank).select("user_id", "item_id").rows()
        assert ids(split, split.targets(part)) == expected
    interactions = pl.read_parquet(project.mart("interactions")).sort("user_id", maintain_order=True)
    assert ids(split, split.training_pairs()) == interactions.select("user_id", "item_id").rows()
    assert np.array_equal(split.offsets[1:] - split.offsets[:-1], split.training + 2 * split.validation)


def test_what_comes_next_follows_all_that_is_known_and_has_no_targets(split):
    a, b = [("a", item) for item in "zxwvyq"], [("b", item) for item in "xywz"]
    assert ids(split, split.history("next")) == [*a, *b, ("c", "y")]
    assert ids(split, split.targets("next")) == []


def test_without_held_out_events_the_error_says_what_to_set():
    with pytest.raises(TableError, match=r"evaluation\.holdout = 2"):
        Split.from_frames(frame(("a", "x")), frame())


def test_an_odd_number_of_held_out_events_is_refused():
    with pytest.raises(TableError, match="odd number"):
        Split.from_frames(frame(("a", "x")), frame(("a", "y")))
