"""Rationales as they would have been matched at each moment."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.testing import assert_allclose, assert_array_equal

from ranking.point_in_time import _nearest, folded_in, shuffled_at_events
from ranking.rationales import Rationales
from ranking.splits import Split


def split_of(training: dict[str, list[str]], held_out: dict[str, list[str]]) -> Split:
    frames = [
        pl.DataFrame([(user, item) for user, items in part.items() for item in items], orient="row").rename(
            {"column_0": "user_id", "column_1": "item_id"}
        )
        for part in (training, held_out)
    ]
    return Split.from_frames(*frames)


def test_a_moment_is_the_sum_of_its_items_without_the_user_itself():
    split = split_of({"u1": ["a", "b"], "u2": ["a"], "u3": ["b", "c"]}, {"u1": ["c", "a"]})
    vectors = np.array([[8.0, 8.0], [1.0, 0.0], [0.0, 2.0]])
    moments, users = folded_in(split, vectors)
    root = np.sqrt(2)
    # u1 takes a (u2 with n = 1 and u1), b (u3 with n = 2 and u1), then c (u3 alone), then a again.
    assert_allclose(
        moments[:4],
        [[1 / 2, 0], [1 / 2, 2 / root / 2], [1 / 2, 2 / root / 2 + 2 / root], [1, 2 / root / 2 + 2 / root]],
    )
    # u2 takes a, where u1 (n = 2) is the other; u3 takes b with u1, then c, which nobody else took.
    assert_allclose(moments[4:], [[8 / root / 2] * 2, [8 / root / 2] * 2, [8 / root / 2] * 2])
    assert users.tolist() == [0, 0, 0, 0, 1, 2, 2]


def test_no_moment_knows_what_its_user_did_later():
    before = {"u1": ["a", "b"], "u2": ["a", "c"], "u3": ["b", "c"]}
    held = {user: ["a", "b"] for user in before}
    first, second = split_of(before, held), split_of(before | {"u1": ["a", "c"]}, held)
    vectors = np.random.default_rng(0).normal(size=(3, 4))
    moment = [folded_in(each, vectors)[0][0] for each in (first, second)]
    assert_allclose(*moment)  # u1 after a: the same, whatever came next


def test_shuffled_deals_out_users_and_not_events():
    generator = np.random.default_rng(1)
    lengths = generator.integers(3, 9, 50)
    training = {f"u{n:02}": list("abcdefgh"[: lengths[n]]) for n in range(50)}
    split = split_of(training, {user: ["a", "b"] for user in training})
    # Everyone has a text of its own, from the second event on.
    users = np.repeat(np.arange(50), np.diff(split.offsets))
    first = np.isin(np.arange(len(users)), split.offsets[:-1])
    rows = np.where(first, -1, users)[:, None]
    own = Rationales(np.eye(50, dtype=np.float32), rows, (rows >= 0).astype(np.float32))

    control = shuffled_at_events(own, split, seed=0)
    assert (control.rows[first] == -1).all()
    last = split.offsets[1:] - 1
    assert sorted(control.rows[last, 0]) == list(range(50)), "everybody's, once"
    for user in range(50):
        dealt = set(control.rows[users == user, 0]) - {-1}
        assert len(dealt) == 1, "of one other user"
    assert (control.rows[last, 0] != np.arange(50)).mean() > 0.9
    assert_array_equal(control.weights, control.rows >= 0)


def test_shuffled_follows_the_others_time():
    split = split_of({"u1": list("abcde"), "u2": list("abc")}, {"u1": ["f", "g"], "u2": ["f", "g"]})
    rows = np.arange(12)[:, None]  # every moment has a rationale of its own: u1 0 to 6, u2 7 to 11
    own = Rationales(np.eye(12, dtype=np.float32), rows, np.ones((12, 1), dtype=np.float32))
    seed = next(n for n in range(20) if np.random.default_rng(n).permutation(2).tolist() == [1, 0])
    control = shuffled_at_events(own, split, seed).rows[:, 0]
    assert control.tolist() == [7, 7, 8, 9, 9, 10, 11, 0, 2, 4, 5, 6]


def test_a_lone_seed_is_not_matched_to_itself():
    assert _nearest(np.ones((2, 3)), np.ones((1, 3)), np.array([0, -1])).tolist() == [-1, 0]
