"""Later behaviour in the space of a fit that is there."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_series_equal

from reland_features.encoders import is_reusable
from reland_features.encoders.base import FITTED
from reland_features.encoders.fold_in import FoldIn
from reland_features.encoders.lightgcn import LightGCN
from reland_features.encoders.sasrec import SASRec
from reland_features.interactions import Interactions

ENCODERS = [LightGCN(dimension=8, max_epochs=3), LightGCN(dimension=8, max_epochs=3, layers=0), SASRec(8, max_epochs=2)]
NAMES = ["lightgcn", "lightgcn without layers", "sasrec"]


def vector_of(vectors, user: str) -> np.ndarray:
    return vectors.vectors[vectors.user_ids.to_list().index(user)]


def with_events(interactions: Interactions, more: Interactions) -> Interactions:
    return Interactions.from_frame(pl.concat([interactions.frame, more.frame]))


def test_folding_in_by_hand(interactions_from):
    # the toy of test_lightgcn: u0: i0, i1   u1: i1, i2; degrees of items 1, 2, 1; one layer, so t_i = e_i / √n_i
    half = 1 / np.sqrt(2)
    fitted = FoldIn(
        pl.Series(["u0", "u1"]),
        pl.Series(["i0", "i1", "i2"]),
        users=np.array([[1, 0], [0, 1]], np.float32),
        items=np.array([[2, 0], [0, 2 * half], [2, 2]], np.float32),
        layers=1,
    )
    later = {"new": ["i2", "i2"], "nobody": ["i9"], "u0": ["i0", "i1", "i9"], "u1": ["i9"]}
    users, vectors = fitted(interactions_from(later))
    assert users.to_list() == ["new", "u0", "u1"]  # of "nobody" nothing is known
    # new: (0 + 1/√1 · (2, 2)) / 2, one edge for both events; u0 as trained; u1: its own e_u⁰ alone, / 2
    np.testing.assert_allclose(vectors, [[1.0, 1.0], [1.2071068, 0.5], [0.0, 0.5]], atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS, ids=NAMES)
def test_the_behaviour_of_the_fit_has_the_vectors_of_the_fit(encoder, two_tastes, end, tmp_path):
    assert is_reusable(encoder)
    vectors = encoder.encode(two_tastes, end)
    encoder.save(tmp_path)
    assert all(path.name.startswith(FITTED) for path in tmp_path.iterdir())
    state = torch.random.get_rng_state()
    again = type(encoder)(**{name: getattr(encoder, name) for name in ("dimension", "max_epochs", "layers")}).transform(
        two_tastes, end, tmp_path
    )
    assert torch.equal(torch.random.get_rng_state(), state)  # whoever calls draws as before
    assert_series_equal(again.user_ids, vectors.user_ids)
    assert (again.encoder_id, again.as_of) == (encoder.encoder_id, end)
    np.testing.assert_allclose(again.vectors, vectors.vectors, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS, ids=NAMES)
def test_who_does_nothing_stays_where_he_was_whatever_others_do(encoder, two_tastes, end, tmp_path, interactions_from):
    vectors = encoder.encode(two_tastes, end)
    encoder.save(tmp_path)
    later = with_events(two_tastes, interactions_from({"a": ["new item"], "v": ["i01", "i02", "new item"]}))
    again = encoder.transform(later, end, tmp_path)
    known = [user for user in again.user_ids if user.startswith("u")]
    assert known == vectors.user_ids.to_list()
    np.testing.assert_allclose(again.without(pl.Series(["v"])).vectors, vectors.vectors, atol=1e-6)
    if encoder.layers:  # the fit knows i01 and i02; without layers a user's vector is its own alone
        assert again.user_ids.to_list() == [*known, "v"]


@pytest.mark.parametrize("encoder", [ENCODERS[0], ENCODERS[2]], ids=[NAMES[0], NAMES[2]])
def test_items_that_the_fit_has_not_seen_are_passed_over(encoder, two_tastes, end, tmp_path, interactions_from):
    encoder.encode(two_tastes, end)
    encoder.save(tmp_path)
    with_new = encoder.transform(interactions_from({"v": ["i01", "new", "i02"]}), end, tmp_path)
    without = encoder.transform(interactions_from({"v": ["i01", "i02"]}), end, tmp_path)
    np.testing.assert_array_equal(with_new.vectors, without.vectors)
    assert len(encoder.transform(interactions_from({"v": ["new"]}), end, tmp_path).user_ids) == 0


def test_what_a_user_has_done_since_moves_it_and_later_events_do_not(two_tastes, end, tmp_path, interactions_from):
    encoder = LightGCN(dimension=16, max_epochs=15)
    vectors = encoder.encode(two_tastes, end)
    encoder.save(tmp_path)
    # u000 likes items 0-29, and a new user some of 30-59
    history = two_tastes.frame.filter(pl.col("user_id") == "u000")["item_id"].to_list()
    grown = interactions_from({"u000": [*history, "i40", "i41", "i42"], "v": ["i30", "i35", "i40"]})
    others = Interactions(two_tastes.frame.filter(pl.col("user_id") != "u000"))
    later = encoder.transform(with_events(others, grown), end, tmp_path)
    assert not np.allclose(vector_of(later, "u000"), vector_of(vectors, "u000"))
    unit = later.vectors / np.linalg.norm(later.vectors, axis=1, keepdims=True)
    cosines = unit @ vector_of(later, "v")
    users = later.user_ids.to_list()
    nearest = [users[row] for row in np.argsort(-cosines)[1:11]]
    assert all(int(user[1:]) % 2 == 1 for user in nearest)  # of its taste
    # the three new events are the last: at the moment before them the vector is the old one
    before = grown.frame.filter(pl.col("item_id") == "i40", pl.col("user_id") == "u000")["interacted_at"][0]
    then = Interactions(grown.frame.filter(pl.col("interacted_at") < before)).frame["interacted_at"].max()
    early = encoder.transform(with_events(others, grown), then, tmp_path)
    np.testing.assert_allclose(vector_of(early, "u000"), vector_of(vectors, "u000"), atol=1e-6)


def test_what_was_never_learnt_cannot_be_saved(tmp_path):
    for encoder in (LightGCN(), SASRec()):
        with pytest.raises(RuntimeError, match="nothing is encoded yet"):
            encoder.save(tmp_path)
