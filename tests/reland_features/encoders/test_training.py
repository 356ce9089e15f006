from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reland_features.encoders.training import Split, held_out_ranks, ndcg, recall, split, train

# u0: 0 1 2 (2 held out); u1: 3 0; u2: 1 3 4 (4 held out)
DATA = Split(3, 5, np.array([0, 3, 5, 8]), np.array([0, 1, 2, 3, 0, 1, 3, 4]), np.array([0, 2]))


def test_training_pairs_leave_out_held_out_interactions() -> None:
    users, items = DATA.training_pairs()
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 3), (1, 0), (2, 1), (2, 3)]
    assert DATA.targets.tolist() == [2, 4]
    assert DATA.lengths.tolist() == [2, 2, 2]


def test_ranks_count_unseen_items_above_the_target() -> None:
    table = torch.tensor([[9.0, 9.0, 3.0, 4.0, 2.0], [0.0] * 5, [7.0, 9.0, 8.0, 9.0, 5.0]])
    # u0: 0 and 1 are seen, 3 is above 2; u2: 1 and 3 are seen, 0 and 2 are above 4
    assert held_out_ranks(lambda rows: table[rows], DATA).tolist() == [1, 2]


def test_a_model_that_scores_everything_alike_ranks_the_target_last() -> None:
    assert held_out_ranks(lambda rows: torch.zeros(len(rows), 5), DATA).tolist() == [2, 2]


def test_metrics_by_hand() -> None:
    ranks = np.array([0, 2, 9, 10, 20])
    assert ndcg(ranks) == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 5)
    assert recall(ranks) == pytest.approx(4 / 5)


def test_only_users_with_enough_behaviour_are_held_out(two_tastes) -> None:
    held = split(two_tastes, np.random.default_rng(0), minimum=12).held_out
    np.testing.assert_array_equal(held, np.flatnonzero(two_tastes.counts >= 12))


def test_the_best_epoch_is_restored_and_patience_ends_training() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    # the target of u0 wins in epoch 2 only
    scores_of = {1: 1.0, 2: 9.0, 3: 1.0, 4: 1.0, 5: 1.0}
    epochs = []

    def run_epoch() -> float:
        epochs.append(len(epochs) + 1)
        with torch.no_grad():
            module.weight.fill_(epochs[-1])
        return 0.0

    def scores():
        row = torch.tensor([0.0, 0.0, scores_of[epochs[-1]], 5.0, scores_of[epochs[-1]]])
        return lambda rows: row.expand(len(rows), 5)

    result = train(module, run_epoch, scores, DATA, max_epochs=100, patience=3, where="test")
    assert (result.epochs, result.best_epoch) == (5, 2)
    assert module.weight.item() == 2.0
    assert result.recall_at_20 == 1.0


def test_without_held_out_users_patience_epochs_are_run_and_metrics_are_none() -> None:
    module, epochs = torch.nn.Linear(1, 1), []
    data = Split(1, 2, np.array([0, 1]), np.array([0]), np.zeros(0, dtype=np.int64))
    result = train(module, lambda: epochs.append(1) or 0.0, lambda: None, data, max_epochs=50, patience=4, where="test")
    assert len(epochs) == result.epochs == 4
    assert result.as_dict()["ndcg_at_10"] is None
