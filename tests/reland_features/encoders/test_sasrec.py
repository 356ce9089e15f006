from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reland_features.encoders import validate
from reland_features.encoders.sasrec import SASRec, sampled_softmax_loss, windows
from reland_features.encoders.transformer import Transformer
from reland_features.errors import ConfigError


def test_outputs_see_neither_what_comes_later_nor_padding() -> None:
    torch.manual_seed(0)
    model = Transformer(n_items=9, dimension=8, length=6, layers=2, heads=2, dropout=0.5).eval()
    full = model(torch.tensor([[1, 2, 3, 4, 5]]))
    changed = model(torch.tensor([[1, 2, 3, 9, 9]]))
    padded = model(torch.tensor([[1, 2, 3, 0, 0]]))
    torch.testing.assert_close(full[:, :3], changed[:, :3])
    torch.testing.assert_close(full[:, :3], padded[:, :3])
    assert not torch.allclose(full[:, 3], changed[:, 3])


def test_sampled_softmax_by_hand() -> None:
    outputs, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    # target item 0 scores 1; negatives: item 1 (2, expected twice), item 0 (the target: left out), item 2 (3, once)
    loss = sampled_softmax_loss(
        outputs, items, torch.tensor([0]), torch.tensor([1, 0, 2]), torch.log(torch.tensor([2.0, 1.0, 1.0]))
    )
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + math.e**2 / 2 + math.e**3)), abs=1e-6)


def test_every_target_belongs_to_one_window_and_has_context() -> None:
    lengths = np.array([1, 2, 8, 9, 10, 40, 97])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    generator = np.random.default_rng(0)
    for _ in range(20):
        begins, sizes, fresh = windows(starts, lengths, 8, generator)
        targets = np.concatenate([b + np.arange(f, s) + 1 for b, s, f in zip(begins, sizes, fresh, strict=True)])
        expected = np.concatenate([s + np.arange(1, n) for s, n in zip(starts, lengths, strict=True)])
        np.testing.assert_array_equal(np.sort(targets), expected)
        assert sizes.max() == 8
        # a window that continues a history gives its first target at least 8 - 8 / 2 items of context
        assert (fresh[fresh > 0] >= 4).all()


def test_the_next_item_of_a_walk_is_learned(two_tastes, end) -> None:
    encoder = SASRec(dimension=16, length=10, learning_rate=1e-2, max_epochs=30, batch_size=512, dropout=0.1)
    vectors = validate(encoder.encode(two_tastes, end))
    assert vectors.vectors.shape == (120, 16)
    assert encoder.training is not None
    assert encoder.training["ndcg_at_10"] > 0.5


def test_negatives_learn_too(two_tastes, end) -> None:
    encoder = SASRec(
        dimension=16, length=10, learning_rate=1e-2, max_epochs=30, batch_size=512, dropout=0.1, negatives=20
    )
    encoder.encode(two_tastes, end)
    assert encoder.training is not None
    assert encoder.training["ndcg_at_10"] > 0.5


def test_the_same_seed_gives_the_same_vectors_and_leaves_torchs_generator_alone(two_tastes, end) -> None:
    options = {"dimension": 8, "heads": 1, "max_epochs": 2, "seed": 3}
    first = SASRec(**options).encode(two_tastes, end)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    second = SASRec(**options).encode(two_tastes, end)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert torch.equal(before, torch.get_rng_state())
    other = SASRec(**{**options, "seed": 4}).encode(two_tastes, end)
    assert not np.allclose(first.vectors, other.vectors)


def test_a_users_last_interaction_moves_its_vector(two_tastes, end) -> None:
    from reland_features.interactions import Interactions

    model_sees = two_tastes.frame
    last = model_sees.with_row_index().filter(user_id="u000")["index"].max()
    encoder = SASRec(dimension=8, max_epochs=1)
    full = encoder.encode(two_tastes, end).vectors
    swapped = model_sees.with_columns(
        item_id=model_sees["item_id"].scatter(last, "i59"),
    )
    other = encoder.encode(Interactions.from_frame(swapped), end).vectors
    # u000's last item is held out, so the trained weights are (nearly) the same: its own row moves most
    moved = np.linalg.norm(full - other, axis=1)
    assert moved.argmax() == 0


def test_single_interactions_get_a_vector(interactions_from, end) -> None:
    vectors = validate(SASRec(dimension=4).encode(interactions_from({"a": ["x"], "b": ["y"], "c": ["x", "y"]}), end))
    assert vectors.user_ids.to_list() == ["a", "b", "c"]


@pytest.mark.parametrize("option", [{"heads": 3}, {"dropout": 1.0}, {"length": 1}, {"learning_rate": "fast"}])
def test_wrong_options_are_named(option) -> None:
    with pytest.raises(ConfigError) as error:
        SASRec(**option)
    assert f"encoder.options.{next(iter(option))}" in error.value.where
