"""Backbones whose features change between training and use, or are of another data set."""

import copy

import numpy as np
import pytest
import torch

from ranking.backbones import COLLABORATIVE, SEQUENTIAL, build
from ranking.compact_views import FeaturesError
from ranking.device import kept_weights
from ranking.fitting import FitSettings, fit
from ranking.rationales import Rationales
from ranking.sides import FeatureSides
from reland_features.errors import ArtifactError

NAMES = [*SEQUENTIAL, *COLLABORATIVE]
GENERATOR = np.random.default_rng(0)
TEXTS = GENERATOR.normal(2, size=(6, 5)).astype(np.float32)
ITEMS = GENERATOR.normal(2, size=(43, 5)).astype(np.float32)
ROWS = GENERATOR.integers(0, 6, (30, 1))
DAY = Rationales(TEXTS, ROWS, np.ones((30, 1), np.float32))
SETTINGS = FitSettings(max_epochs=2, learning_rate=0.01)


def make(name, split, items=ITEMS, rationales=DAY, **options):
    sides = FeatureSides(items, rationales, output=options.pop("output", "none"))
    return build(name, split, {"dimension": 8, **options}, sides=sides)


def scores(backbone):
    with torch.inference_mode():
        return backbone.eval().scorer("test")(torch.arange(30))


@pytest.mark.parametrize("output", ["none", "cross", "kar", "slim"])
@pytest.mark.parametrize("name", ["sasrec", "neumf"])
def test_a_user_scores_the_same_when_the_others_have_other_texts(name, output, random_split):
    trained = make(name, random_split, output=output)
    with torch.no_grad():
        for value in trained.parameters():
            value.add_(0.1 * torch.randn_like(value))
    first = ROWS[:, 0] < 2
    segment = Rationales(TEXTS[:2], np.where(first[:, None], ROWS, -1), first[:, None].astype(np.float32))
    served = make(name, random_split, rationales=segment, output=output)
    served.load_state_dict(trained.state_dict())
    expected, found = scores(trained), scores(served)
    torch.testing.assert_close(found[first], expected[first], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found[~first], expected[~first]), "they have lost theirs"


def test_an_item_scores_the_same_when_others_lose_their_text(random_split):
    trained = make("neumf", random_split)
    with torch.no_grad():
        trained.item_sides[0].text.weight.normal_()
        trained.item_sides[1].text.weight.normal_()
    served = make("neumf", random_split, items=np.where(np.arange(43)[:, None] < 9, ITEMS, 0))
    served.load_state_dict(trained.state_dict())
    assert torch.equal(scores(served)[:, :9], scores(trained)[:, :9])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", ["none", "cross", "kar"])
def test_weights_that_say_no_scale_are_refused(name, output, random_split):
    backbone = make(name, random_split, output=output)
    older = {key: value for key, value in kept_weights(backbone).items() if ".mean" not in key}
    with pytest.raises(FeaturesError, match="how the texts that they were trained with were scaled"):
        backbone.load_state_dict(older)


def test_a_state_of_training_that_says_no_scale_is_refused_and_changes_nothing(random_split, tmp_path):
    path = tmp_path / "run.training"
    fit(make("lightgcn", random_split), SETTINGS, state_file=path)
    state = torch.load(path, weights_only=True)
    for name in [name for name in state["model"] if ".texts." in name]:
        del state["model"][name]
    assert len(state["model"]) < len(make("lightgcn", random_split).state_dict())
    torch.save(state, path)
    backbone = make("lightgcn", random_split)
    before = kept_weights(backbone)
    with pytest.raises(ArtifactError, match="of another training") as error:
        fit(backbone, SETTINGS, state_file=path)
    assert "texts.mean is not there" in error.value.got
    assert "delete it to start anew" in error.value.hint
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def some(users):
    return Rationales(TEXTS, np.resize(ROWS, (users, 1)), np.ones((users, 1), np.float32))


@pytest.mark.parametrize("users", [29, 15, 60])
@pytest.mark.parametrize("name", NAMES)
def test_rationales_of_another_number_of_users_are_refused(name, users, random_split):
    with pytest.raises(FeaturesError, match="not those of the split") as error:
        make(name, random_split, rationales=some(users))
    assert (error.value.got, error.value.expected) == (f"{users} rationales of users", "30 rationales of users")


def test_rationales_by_event_are_one_for_each_interaction(random_split):
    count = len(random_split.items)
    build("sasrec", random_split, sides=FeatureSides(ITEMS, some(count), by_event=True))
    with pytest.raises(FeaturesError) as error:  # those of the whole histories, for a split that was cut
        build("sasrec", random_split.keep_last(3), sides=FeatureSides(ITEMS, some(count), by_event=True))
    assert error.value.got == f"{count} rationales of interactions"
    assert "rationales_at_events" in error.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_another_number_of_items_are_refused_with_all_that_is_wrong(name, random_split):
    with pytest.raises(FeaturesError) as error:
        make(name, random_split, items=np.vstack([ITEMS, ITEMS[:1]]), rationales=some(29))
    assert error.value.got == "29 rationales of users, 44 item texts"
    assert error.value.expected == "30 rationales of users, 43 item texts"


@pytest.mark.parametrize("name", NAMES)
def test_a_deep_copy_scores_the_same_and_is_trained_by_itself(name, random_split):
    backbone = make(name, random_split)
    before = scores(backbone)
    copied = copy.deepcopy(backbone)
    assert torch.equal(scores(copied), before)
    fit(copied, SETTINGS)
    assert not torch.equal(scores(copied), before)
    assert torch.equal(scores(backbone), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_learns_in_double_precision(name, random_split):
    backbone = make(name, random_split).double()
    fit(backbone, SETTINGS)
    assert {value.dtype for value in backbone.parameters()} == {torch.float64}
    assert scores(backbone).isfinite().all()
