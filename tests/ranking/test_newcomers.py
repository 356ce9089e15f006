"""Users kept out of training, and what is known of them when they are met."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from ranking.newcomers import beginnings, events_of, newcomers, untrained, without
from ranking.point_in_time import shuffled_at_events
from ranking.rationales import Rationales
from ranking.splits import Split
from reland_features.errors import ConfigError


@pytest.fixture
def split() -> Split:
    """Three users of 3, 5 and 4 interactions, of which the last two are held out; items are numbered by name."""
    histories = {"u0": "abc", "u1": "bcdea", "u2": "caeb"}
    events = [(user, item, len(items) - n) for user, items in histories.items() for n, item in enumerate(items)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "left"], orient="row")
    return Split.from_frames(frame.filter(pl.col("left") > 2), frame.filter(pl.col("left") <= 2))


def pairs(found: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(*(each.tolist() for each in found), strict=True))


def test_newcomers_are_a_third_of_the_users_the_same_for_every_run():
    many = Split(pl.Series([str(n) for n in range(300)]), pl.Series(["a"]), *[np.zeros(1, np.int64)] * 4)
    drawn = newcomers(many)
    assert len(drawn) == len(set(drawn.tolist())) == 100
    assert (np.diff(drawn) > 0).all()
    assert not (drawn == np.arange(100)).all()
    assert_array_equal(drawn, newcomers(many))


def test_a_ranker_that_learns_without_newcomers_meets_none_of_their_interactions(split):
    left = without(split, np.array([1]))
    assert (left.n_users, left.n_items) == (3, 5), "rows stay"
    assert pairs(left.training_pairs()) == [(0, 0), (2, 2), (2, 0)]
    assert pairs(left.targets("validation")) == [(0, 1), (2, 4)]
    assert pairs(left.targets("test")) == [(0, 2), (2, 1)]
    assert_array_equal(left.history_lengths("test"), [2, 0, 3])


def test_of_newcomers_the_first_interactions_are_known_and_the_next_is_asked_for(split):
    met = beginnings(split, np.array([1, 2]), 2)
    assert pairs(met.history("test")) == pairs(met.seen("test")) == [(1, 1), (1, 2), (2, 2), (2, 0)]
    assert pairs(met.targets("test")) == [(1, 3), (2, 4)]
    assert pairs(met.targets("validation")) == []
    longest = beginnings(split, np.array([0, 1, 2]), 4)  # also of what is held out from others
    assert pairs(longest.targets("test")) == [(1, 0)], "the others have four interactions at most"
    for wrong in (0, 5):
        with pytest.raises(ConfigError, match="no newcomer has so many") as caught:
            beginnings(split, np.array([0, 1, 2]), wrong)
        assert caught.value.expected == "1 to 4"


def test_what_is_laid_out_by_interaction_is_found_again_in_a_part(split):
    users = np.array([1, 2])
    for part in (without(split, users), beginnings(split, users, 2)):
        assert_array_equal(split.items[events_of(split, part)], part.items)
    left = untrained(split, users)
    assert_array_equal(left.items, split.items)
    assert pairs(left.training_pairs()) == [(0, 0)]
    assert_array_equal(left.history_lengths("test"), split.history_lengths("test"))


def test_users_without_interactions_take_no_part_in_the_shuffled_control(split):
    part = without(split, np.array([1]))
    own = Rationales.of_users(np.eye(len(part.items), dtype=np.float32))
    seed = next(n for n in range(20) if np.random.default_rng(n).permutation(np.array([0, 2])).tolist() == [2, 0])
    assert shuffled_at_events(own, part, seed).rows[:, 0].tolist() == [3, 5, 6, 0, 0, 1, 2]
