"""Rationales as they would have been matched at each moment."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.testing import assert_allclose

from ranking.point_in_time import folded_in
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
