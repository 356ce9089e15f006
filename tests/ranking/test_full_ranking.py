"""Full ranking agrees with a well-kept library, under both conventions."""

import numpy as np
import polars as pl
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_normalized_dcg

from ranking import full_ranking as module
from ranking.full_ranking import full_ranking
from ranking.splits import Split
from reland_features.errors import RelandError

USERS, ITEMS = 40, 60


def random_split(held_out, generator):
    """Return users with random histories of 3 to 20 items, the last `held_out(length)` of each part held out."""
    train, held = [], []
    for user in range(USERS):
        items = generator.permutation(ITEMS)[: generator.integers(5, 21)]
        part = held_out(len(items))
        train += [(f"u{user:02}", f"i{item:02}") for item in items[: len(items) - 2 * part]]
        held += [(f"u{user:02}", f"i{item:02}") for item in items[len(items) - 2 * part :]]
    train += [("z-nothing-held-out", f"i{item:02}") for item in range(ITEMS)]
    schema = {"user_id": pl.String, "item_id": pl.String}
    return Split.from_frames(pl.DataFrame(train, schema, orient="row"), pl.DataFrame(held, schema, orient="row"))


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("held_out", [lambda n: 1, lambda n: max(1, n // 6)], ids=["leave-one-out", "fraction"])
@pytest.mark.parametrize("block", [1 << 24, 200])
def test_metrics_agree_with_torchmetrics(part, held_out, block, monkeypatch):
    monkeypatch.setattr(module, "_SCORES_PER_BLOCK", block)
    generator = np.random.default_rng(3)
    split = random_split(held_out, generator)
    scores = torch.from_numpy(generator.normal(size=(split.n_users, split.n_items)).astype(np.float32))
    measured = full_ranking(lambda rows: scores[rows], split, part)
    assert measured.users.tolist() == list(range(USERS))
    owners, items = split.targets(part)
    seen_owners, seen_items = split.seen(part)
    for convention in ("unmasked", "masked"):
        for user in range(USERS):
            own = scores[user].clone()
            if convention == "masked":
                own[seen_items[seen_owners == user]] = -100.0
            target = torch.zeros(ITEMS, dtype=torch.long)
            target[items[owners == user]] = 1
            # torchmetrics takes scores whose order is all that counts
            assert measured.ndcg[convention][user] == pytest.approx(
                float(retrieval_normalized_dcg(own, target, top_k=10)), abs=1e-6
            )
            assert measured.hit_rate[convention][user] == float(retrieval_hit_rate(own, target, top_k=10))


def test_ties_share_their_positions():
    split = Split.from_frames(
        pl.DataFrame({"user_id": ["a"] * 13, "item_id": [f"i{n:02}" for n in range(13)]}),
        pl.DataFrame({"user_id": ["a", "a"], "item_id": ["j0", "j1"]}),
    )
    measured = full_ranking(lambda rows: torch.zeros(len(rows), 15), split, "test")
    # Unmasked, 14 others are level: position 8. Masked, j1 is alone with nothing seen before it: position 1.
    assert measured.ndcg["unmasked"].tolist() == [pytest.approx(1 / np.log2(9))]
    assert measured.ndcg["masked"].tolist() == [1.0]


def test_an_item_bought_again_stays_in_the_masked_ranking():
    split = Split.from_frames(
        pl.DataFrame({"user_id": ["a", "a"], "item_id": ["x", "y"]}),
        pl.DataFrame({"user_id": ["a", "a"], "item_id": ["z", "x"]}),
    )
    measured = full_ranking(lambda rows: torch.tensor([[1.0, 3.0, 2.0]]), split, "test")
    assert measured.ndcg["unmasked"].tolist() == [pytest.approx(1 / np.log2(4))]
    assert measured.ndcg["masked"].tolist() == [1.0]  # y and z are seen; x is too, but it is the answer


def frames(training, held_out):
    return Split.from_frames(
        *(pl.DataFrame({"user_id": ["a"] * len(items), "item_id": list(items)}) for items in (training, held_out))
    )


def test_an_item_seen_often_is_taken_out_once():
    split = frames("xxxxy", "zw")  # w is the answer; x, five times over, and y and z come before it
    measured = full_ranking(lambda rows: torch.tensor([[1.0, 4.0, 3.0, 2.0]]), split, "test")  # w x y z
    assert measured.ndcg["unmasked"].tolist() == [pytest.approx(1 / np.log2(5))]
    assert measured.ndcg["masked"].tolist() == [1.0]


def test_an_item_held_out_twice_counts_once():
    split = frames("xy", "xyww")
    measured = full_ranking(lambda rows: torch.tensor([[3.0, 2.0, 1.0]]), split, "test")  # w x y
    assert measured.ndcg["unmasked"].tolist() == [1.0]
    assert measured.ndcg["masked"].tolist() == [1.0]


def test_a_held_out_item_that_was_seen_stays_for_the_others_too():
    split = frames("xy", "zvxw")  # x is bought again, w is new: both are answers
    measured = full_ranking(lambda rows: torch.tensor([[0.0, 1.0, 3.0, 2.0, 0.5]]), split, "test")  # v w x y z
    assert measured.ndcg["masked"].tolist() == [1.0]  # x, w; y, seen, is not between them
    best = 1 + 1 / np.log2(3)
    assert measured.ndcg["unmasked"].tolist() == [pytest.approx((1 + 1 / np.log2(4)) / best)]


def test_users_who_repeat_themselves_are_measured_as_by_the_library():
    generator = np.random.default_rng(5)
    rows = [(f"u{user:02}", f"i{item:02}") for user in range(USERS) for item in generator.integers(0, 8, 14)]
    names = ["user_id", "item_id"]
    everything = pl.DataFrame(rows, names, orient="row").with_columns(n=pl.int_range(pl.len()).over("user_id"))
    split = Split.from_frames(everything.filter(pl.col("n") < 8), everything.filter(pl.col("n") >= 8))
    scores = torch.from_numpy(generator.normal(size=(split.n_users, split.n_items)).astype(np.float32))
    measured = full_ranking(lambda rows: scores[rows], split, "test")
    owners, items = split.targets("test")
    seen_owners, seen_items = split.seen("test")
    for user in range(USERS):
        answers = items[owners == user]
        own = scores[user].clone()
        own[np.setdiff1d(seen_items[seen_owners == user], answers)] = -100.0
        target = torch.zeros(split.n_items, dtype=torch.long)
        target[answers] = 1
        expected = float(retrieval_normalized_dcg(own, target, top_k=10))
        assert measured.ndcg["masked"][user] == pytest.approx(expected, abs=1e-6)


def test_some_users_only():
    split = random_split(lambda n: 1, np.random.default_rng(0))
    scores = torch.rand(split.n_users, split.n_items)
    everyone = full_ranking(lambda rows: scores[rows], split, "test")
    some = full_ranking(lambda rows: scores[rows], split, "test", users=np.array([3, 7, 20]))
    assert some.users.tolist() == [3, 7, 20]
    for convention in ("unmasked", "masked"):
        assert some.ndcg[convention].tolist() == everyone.ndcg[convention][[3, 7, 20]].tolist()


def test_nan_scores_are_refused():
    split = random_split(lambda n: 1, np.random.default_rng(0))
    scores = torch.rand(split.n_users, split.n_items)
    scores[5, 7] = torch.nan
    with pytest.raises(RelandError, match="1 of"):
        full_ranking(lambda rows: scores[rows], split, "test")
