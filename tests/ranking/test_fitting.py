"""Early stopping, its best weights, and what happens when training diverges."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from ranking.backbones.base import Backbone
from ranking.fitting import FitSettings, TrainingDivergedError, evaluate, fit
from ranking.splits import Split
from reland_features.errors import ConfigError, FeatureStoreError


@pytest.fixture
def split():
    """Eight users who all end on the items y and z."""
    events = [(f"u{n}", f"i{n}") for n in range(8)]
    held = [(f"u{n}", item) for n in range(8) for item in ("y", "z")]
    schema = {"user_id": pl.String, "item_id": pl.String}
    return Split.from_frames(pl.DataFrame(events, schema, orient="row"), pl.DataFrame(held, schema, orient="row"))


class Scripted(Backbone):
    """Its item y gets a score from a list, one entry an epoch; its weight counts the epochs."""

    def __init__(self, split, script, loss=0.0):
        super().__init__(split)
        self.epochs = nn.Parameter(torch.zeros(()))
        self.script, self.value = script, loss

    def batches(self, generator):
        yield from range(3)

    def loss(self, batch):
        with torch.no_grad():
            self.epochs += 1 / 3
        return self.epochs * 0.0 + (self.value if batch == 1 else 0.0)

    def representations(self, part):
        epoch = round(float(self.epochs))
        items = torch.arange(self.split.n_items, dtype=torch.float32)[:, None]
        items[self.split.item_ids.to_list().index("y")] = self.script[min(epoch, len(self.script)) - 1]
        return torch.ones(self.split.n_users, 1), items


# Items are i0..i7, y, z with scores 0..7, y's, 9: y's score decides its position.
def test_it_stops_when_patience_ends_and_keeps_the_best_weights(split):
    backbone = Scripted(split, [3.5, 6.5, 8.5, 7.5, 4.5, 5.5, 99.0])
    seen = []
    done = fit(backbone, FitSettings(patience=2, convention="unmasked"), progress=seen.append)
    assert (done.best_epoch, done.epochs) == (3, 5)
    assert [point.epoch for point in seen] == [1, 2, 3, 4, 5]
    assert seen == list(done.curve)
    assert round(float(backbone.epochs.detach())) == 3
    assert done.best["ndcg@10_unmasked"] == pytest.approx(1 / np.log2(3))
    assert evaluate(backbone, "validation").means() == done.best
    assert done.best["ndcg@10_masked"] >= done.best["ndcg@10_unmasked"]


def test_it_evaluates_every_few_epochs_and_at_the_end(split):
    done = fit(Scripted(split, [1.5] * 9), FitSettings(max_epochs=7, evaluate_every=3))
    assert [point.epoch for point in done.curve] == [3, 6, 7]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    # 0.1 · (1 + cos(π · 0)) / 2, of π / 3 and of 2π / 3
    [("constant", [0.1, 0.1, 0.1]), ("cosine", [0.1, 0.075, 0.025])],
)
def test_the_learning_rate_of_every_epoch_follows_the_schedule(split, schedule, rates):
    class Falling(Scripted):
        def loss(self, batch):
            return -self.level

        def __init__(self, split):
            super().__init__(split, [1.0])
            self.level = nn.Parameter(torch.zeros(()))

    settings = FitSettings(learning_rate=0.1, schedule=schedule, max_epochs=3)
    seen = []
    backbone = Falling(split)
    fit(backbone, settings, progress=lambda point: seen.append(float(backbone.level.detach())))
    # Under a constant gradient Adam moves a weight by the learning rate: three batches an epoch.
    assert np.diff([0.0, *seen]) == pytest.approx(3 * np.array(rates), rel=1e-4)
    assert [settings.rate_of(epoch) for epoch in (1, 2, 3)] == pytest.approx(rates)


def test_a_schedule_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match="no such schedule") as raised:
        FitSettings(schedule="linear")
    assert (raised.value.got, raised.value.expected) == ("linear", "constant or cosine")


def test_a_convention_that_there_is_not_is_named_before_the_first_epoch():
    with pytest.raises(ConfigError, match="no such convention") as raised:
        FitSettings(convention="maskd")
    assert raised.value.where == "fit.convention"
    assert (raised.value.got, raised.value.expected) == ("maskd", "unmasked or masked")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("learning_rate",) for value in (0, -0.1, float("nan"), float("inf"), "0.1", None)),
        *(("weight_decay", value) for value in (-0.1, float("nan"))),
        *((name, 0) for name in ("max_epochs", "patience", "evaluate_every", "validation_users")),
        ("max_epochs", None),
        ("evaluate_every", 1.5),
        ("validation_users", -3),
        ("patience", True),
    ],
)
def test_numbers_that_no_training_can_be_done_with_are_refused(name, value):
    with pytest.raises(ConfigError, match="no training can be done with") as raised:
        FitSettings(**{name: value})
    assert (raised.value.where, raised.value.got) == (f"fit.{name}", f"{name} = {value!r}")


def test_all_wrong_numbers_are_named_at_once_and_those_of_numpy_are_numbers():
    with pytest.raises(ConfigError) as raised:
        FitSettings(learning_rate=-1.0, max_epochs=0)
    assert raised.value.where == "fit.learning_rate, fit.max_epochs"
    assert raised.value.expected == "learning_rate: a number above 0, max_epochs: a whole number from 1"
    FitSettings(learning_rate=np.float32(0.1), weight_decay=0, max_epochs=np.int64(1), validation_users=1)


def test_a_constant_schedule_is_not_named_so_that_earlier_runs_keep_their_ids():
    assert "schedule" not in FitSettings().as_dict()
    assert FitSettings(schedule="cosine").as_dict()["schedule"] == "cosine"


def test_a_loss_that_is_not_finite_stops_with_the_batch_named(split):
    with pytest.raises(TrainingDivergedError, match="Scripted, batch 1 of the epoch"):
        fit(Scripted(split, [1.0], loss=float("nan")))


def test_a_backbone_without_weights_is_measured_as_it_is(split):
    class Fixed(Scripted):
        def __init__(self, split):
            Backbone.__init__(self, split)
            self.epochs, self.script = 1, [8.5]

    assert fit(Fixed(split), FitSettings(convention="unmasked")).best["ndcg@10_unmasked"] == pytest.approx(
        1 / np.log2(3)
    )


def test_the_callers_random_state_is_left_alone(split):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit(Scripted(split, [1.0]), FitSettings(max_epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_sample_of_users_is_enough_to_stop_on(split):
    measured = []

    class Counting(Scripted):
        def scorer(self, part):
            score = super().scorer(part)
            return lambda rows: measured.append(len(rows)) or score(rows)

    fit(Counting(split, [1.0, 2.0]), FitSettings(max_epochs=2, validation_users=3))
    assert measured == [3, 3]


def test_a_validation_score_that_is_nan_is_a_divergence(split):
    with pytest.raises(TrainingDivergedError, match="NaN scores") as raised:
        fit(Scripted(split, [1.0, float("nan")]), FitSettings(max_epochs=3))
    assert raised.value.where == "Scripted, validation after epoch 2"
    assert raised.value.got == "8 of 8 users"


def test_another_error_of_a_scorer_keeps_its_class(split):
    class Stale(Scripted):
        def scorer(self, part):
            raise FeatureStoreError("stale")

    with pytest.raises(FeatureStoreError, match="stale"):
        fit(Stale(split, [1.0]), FitSettings(max_epochs=1))
