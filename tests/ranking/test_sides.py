"""Where features come in: item side, user side, output."""

import numpy as np
import pytest
import torch

from ranking.adaptors import TextAdaptor
from ranking.backbones.base import First, SameOutput
from ranking.compact_views import FeaturesError
from ranking.cross import CrossPath
from ranking.features import load_features
from ranking.full_ranking import full_ranking
from ranking.fusion import FusionLayer
from ranking.rationales import Rationales
from ranking.sides import FeatureSides
from ranking.splits import Split
from ranking.texts import TextScale

D, DIMENSION = 5, 3
GENERATOR = np.random.default_rng(0)
ITEMS = np.vstack([GENERATOR.normal(size=(6, D)), np.zeros((1, D))]).astype(np.float32)
ROWS = np.array([[1], [-1], [0]])
RATIONALES = Rationales(GENERATOR.normal(size=(2, D)).astype(np.float32), ROWS, (ROWS >= 0).astype(np.float32))
TABLE = torch.from_numpy(GENERATOR.normal(size=(7, DIMENSION)).astype(np.float32))


def test_item_features_start_as_the_id_embedding():
    assert torch.equal(FeatureSides(ITEMS, None).items(DIMENSION)(TABLE), TABLE)


def test_item_features_add_a_linear_map_of_the_text():
    items = FeatureSides(ITEMS, None).items(DIMENSION)
    with torch.no_grad():
        for value in items.parameters():
            value.normal_()
    scaled = np.vstack([TextScale.of(ITEMS[:6])(ITEMS[:6]), np.zeros((1, D))])
    expected = TABLE.numpy() + scaled @ items.text.weight.detach().numpy().T + items.text.bias.detach().numpy()
    some = torch.tensor([4, 6, 4])
    np.testing.assert_allclose(items(TABLE[some], some).detach(), expected[some], atol=1e-5)
    np.testing.assert_allclose(items(TABLE).detach(), expected, atol=1e-5)


def test_item_texts_learn_from_the_first_step_although_they_start_at_zero():
    items = FeatureSides(ITEMS, None).items(DIMENSION)
    items(TABLE).square().sum().backward()
    assert all(value.grad.any() for value in items.parameters())


def test_each_side_is_an_identity_without_its_features():
    sides = FeatureSides(None, None)
    assert isinstance(sides.items(DIMENSION), First)
    assert isinstance(sides.users(DIMENSION), First)
    assert isinstance(sides.output(DIMENSION), SameOutput)
    output_only = FeatureSides(ITEMS, RATIONALES, fusion="none", output="kar", on_items=False)
    assert isinstance(output_only.items(DIMENSION), First)
    assert isinstance(output_only.users(DIMENSION), First)
    assert isinstance(output_only.output(DIMENSION), TextAdaptor)


@pytest.mark.parametrize("fusion", ["attention", "concat", "gate"])
def test_the_user_side_is_the_fusion_layer(fusion):
    users = FeatureSides(None, RATIONALES, fusion=fusion, dropout=0.25).users(DIMENSION)
    assert isinstance(users, FusionLayer)
    assert type(users.combine).__name__.lower() == fusion
    assert users.dropout.p == 0.25


def test_every_call_makes_weights_of_its_own():
    sides = FeatureSides(ITEMS, RATIONALES, output="slim")
    for make in (sides.items, sides.users, sides.output):
        first, second = list(make(DIMENSION).parameters()), list(make(DIMENSION).parameters())
        assert first
        assert not {id(value) for value in first} & {id(value) for value in second}


def test_cross_adds_its_product_to_the_score():
    cross = FeatureSides(ITEMS, RATIONALES, output="cross", cross_width=2).output(DIMENSION)
    users, rows = torch.randn(4, DIMENSION), torch.tensor([2, 1, 0, 2])
    with torch.no_grad():
        cross.project.weight.normal_()
        cross.scale.fill_(0.7)
        gained = cross.users(users, rows) @ cross.items(TABLE).T - users @ TABLE.T
    scale = TextScale.of(ITEMS[:6])  # one origin for both sides, the items'
    projection = cross.project.weight.detach().numpy()
    texts = scale(RATIONALES.embeddings).numpy()[[0, 0, 1, 0]] @ projection.T
    texts[1] = 0  # user 1 has no rationale
    items = np.vstack([scale(ITEMS[:6]), np.zeros((1, D))]) @ projection.T
    np.testing.assert_allclose(gained, 0.7 * texts @ items.T, atol=1e-4)
    assert not gained[1].any()
    assert not gained[:, 6].any()


def test_cross_starts_at_a_tenth_of_the_product_of_the_texts():
    cross = CrossPath(RATIONALES, ITEMS)  # D columns, which are fewer than 32
    none, rows = torch.zeros(2, 0), torch.tensor([0, 2])
    score = cross.users(none, rows) @ cross.items(torch.zeros(7, 0)).T
    scale = TextScale.of(ITEMS[:6])
    expected = 0.1 * scale(RATIONALES.embeddings)[[1, 0]] @ scale(ITEMS[:6]).T
    torch.testing.assert_close(score[:, :6].detach(), expected)
    score.square().sum().backward()
    assert cross.project.weight.grad.any()
    assert cross.scale.grad.any()


@pytest.mark.parametrize("width", [0, -3, D + 1])
def test_cross_has_no_columns_that_the_texts_do_not_have(width):
    with pytest.raises(FeaturesError, match="so many columns") as error:
        FeatureSides(ITEMS, RATIONALES, output="cross", cross_width=width).output(DIMENSION)
    assert (error.value.got, error.value.expected) == (str(width), f"1 to {D}")
    whole = FeatureSides(ITEMS, RATIONALES, output="cross", cross_width=D).output(DIMENSION)
    assert whole.users(torch.zeros(1, 0), torch.tensor([0])).shape == (1, D)


def test_cross_ranks_what_the_rationales_speak_of_first(project):
    """In this world the rationales decide: the path must find it before training, and the shuffled control not."""
    split = Split.of(project)
    features = load_features(project, split)

    def ndcg(rationales):
        cross = CrossPath(rationales, features.item_text)
        items = cross.items(torch.zeros(split.n_items, 0))
        score = lambda rows: cross.users(torch.zeros(len(rows), 0), rows) @ items.T  # noqa: E731
        return full_ranking(score, split, "test").means()["ndcg@10_masked"]

    matched, shuffled = ndcg(features.rationales), ndcg(features.rationales.shuffled(0))
    assert matched > 1.5 * shuffled
    assert abs(ndcg(features.rationales.constant()) - shuffled) < matched - shuffled


def test_what_does_not_fit_is_named():
    with pytest.raises(FeaturesError, match="no such output"):
        FeatureSides(ITEMS, RATIONALES, output="sum")
    with pytest.raises(FeaturesError, match="reads both") as error:
        FeatureSides(None, RATIONALES, output="kar")
    assert error.value.got == "no item_text"
    with pytest.raises(FeaturesError, match="different text encoders"):
        FeatureSides(ITEMS[:, :3], RATIONALES, output="cross").output(DIMENSION)
    with pytest.raises(FeaturesError, match="differ in number"):
        FeatureSides(ITEMS, None).items(DIMENSION)(TABLE[:5])
