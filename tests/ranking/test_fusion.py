"""Eq. (5) against numbers worked out by hand."""

import copy

import numpy as np
import pytest
import torch

from ranking.compact_views import FeaturesError
from ranking.fusion import FusionLayer
from ranking.rationales import Rationales
from ranking.texts import ItemTexts, TextScale, UserTexts

# At mean zero and of length 1 already, so that hand-worked numbers need no scaling.
TEXTS = np.array([[1, 0], [-1, 0]], dtype=np.float32)


def rationales(*rows, weights=None):
    rows = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
    weights = np.array(weights) if weights is not None else (rows >= 0)
    return Rationales(TEXTS, rows, weights.astype(np.float32))


def layer(given, **options):
    """Linear maps the texts to z = [2, 1] and [-2, 1]."""
    fusion = FusionLayer(2, given, **options)
    with torch.no_grad():
        fusion.linear.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        fusion.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    return fusion


def attention(given):
    """W = [log 2, 0]: e = [1, 0] scores log 2, the two texts score 2 log 2 and -2 log 2."""
    fusion = layer(given)
    with torch.no_grad():
        fusion.combine.attention.copy_(torch.tensor([np.log(2), 0.0]))
    return fusion


E = torch.tensor([[1.0, 0.0]])


def test_attention_by_hand():
    fused = attention(rationales(0, 1, -1))(E.expand(3, 2), torch.tensor([0, 1, 2]))
    # softmax of (log 2, 2 log 2) is (1/3, 2/3), of (log 2, -2 log 2) it is (8/9, 1/9).
    torch.testing.assert_close(fused, torch.tensor([[5 / 3, 2 / 3], [6 / 9, 1 / 9], [1.0, 0.0]]))


def test_attention_starts_with_equal_shares():
    fused = layer(rationales(0))(E, torch.tensor([0]))
    torch.testing.assert_close(fused, torch.tensor([[1.5, 0.5]]))


def test_several_seeds_are_weighted_before_the_attention():
    fused = attention(rationales([0, 1], weights=[[0.25, 0.75]]))(E, torch.tensor([0]))
    # z = 1/4 [2, 1] + 3/4 [-2, 1] = [-1, 1]; softmax of (log 2, -log 2) is (4/5, 1/5).
    torch.testing.assert_close(fused, torch.tensor([[0.6, 0.2]]))


def test_several_seeds_reduce_to_the_best_one():
    rows, users = [[0, 1], [1, 0], [1, -1], [-1, -1]], torch.tensor([3, 0, 1, 2, 0])
    several = attention(rationales(*rows, weights=[[1, 0], [1, 0], [1, 0], [0, 0]]))
    one = attention(rationales(*(first for first, _ in rows)))
    vectors = torch.randn(5, 2)
    torch.testing.assert_close(several(vectors, users), one(vectors, users))


def test_concat_by_hand():
    fusion = layer(rationales(0, -1), kind="concat")
    with torch.no_grad():
        fusion.combine.linear.weight.copy_(torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, -1.0]]))
        fusion.combine.linear.bias.copy_(torch.tensor([0.0, 4.0]))
    fused = fusion(E.expand(2, 2), torch.tensor([0, 1]))
    torch.testing.assert_close(fused, torch.tensor([[2.0, 3.0], [1.0, 0.0]]))


def test_concat_starts_as_the_id_embedding_plus_a_part_of_the_text():
    fusion = layer(rationales(0), kind="concat")
    part = fusion.combine.linear.weight[:, 2:] @ torch.tensor([2.0, 1.0])
    torch.testing.assert_close(fusion(E, torch.tensor([0])), E + part)


def test_gate_by_hand():
    fusion = layer(rationales(0, -1), kind="gate")
    with torch.no_grad():
        fusion.combine.linear.weight.zero_()
        fusion.combine.linear.weight[0, 2] = 0.5  # column 0 opens by half of z's 2: sigmoid(log 3 - 1 + 1) = 3/4
        fusion.combine.linear.bias.copy_(torch.tensor([np.log(3) - 1, 0.0]))
    fused = fusion(E.expand(2, 2), torch.tensor([0, 1]))
    torch.testing.assert_close(fused, torch.tensor([[0.75 * 1 + 0.25 * 2, 0.5 * 0 + 0.5 * 1], [1.0, 0.0]]))


@pytest.mark.parametrize("kind", ["attention", "concat", "gate"])
def test_without_a_rationale_the_vector_is_untouched_and_teaches_the_layer_nothing(kind):
    fusion = FusionLayer(2, rationales(0, -1), kind=kind, dropout=0.5)
    vectors = torch.randn(3, 2, requires_grad=True)
    fused = fusion(vectors, torch.tensor([1, -1, 1]))
    assert torch.equal(fused, vectors), "bit by bit, in training too; row -1 is nobody"
    fused.sum().backward()
    assert torch.equal(vectors.grad, torch.ones(3, 2))
    assert all(weights.grad is None or not weights.grad.any() for weights in fusion.parameters())


@pytest.mark.parametrize("kind", ["attention", "concat", "gate"])
def test_gradients_reach_every_weight_and_the_user_vectors(kind):
    fusion = FusionLayer(2, rationales(0, 1), kind=kind)
    vectors = torch.randn(4, 2, requires_grad=True)
    fusion(vectors, torch.tensor([0, 1, 1, 0])).square().sum().backward()
    assert vectors.grad.all()
    for name, weights in fusion.named_parameters():
        assert weights.grad.any(), name
    assert fusion.linear.weight.grad[:, 1].eq(0).all(), "texts have nothing in column 1"


def test_gradients_are_those_of_finite_differences():
    fusion = attention(rationales([0, 1], [1, -1], weights=[[0.25, 0.75], [1, 0]])).double()
    vectors = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: fusion(e, torch.tensor([0, 1, 0])), vectors)


def test_no_rationales_is_an_identity():
    fusion = FusionLayer(2, None)
    assert fusion(E, torch.tensor([0])) is E
    assert not list(fusion.parameters())


def test_each_distinct_text_of_a_call_is_projected_once():
    table = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    rows = np.array([[3], [1], [-1], [3], [0]])
    fusion = FusionLayer(2, Rationales(table, rows, (rows >= 0).astype(np.float32)))
    seen = []
    fusion.linear.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    users = torch.tensor([0, 3, 1, 1, 0, 3] * 100)
    vectors = torch.randn(600, 2)
    fused = fusion(vectors, users)
    assert seen == [2]
    one_by_one = torch.cat([fusion(vectors[n : n + 1], users[n : n + 1]) for n in range(6)])
    torch.testing.assert_close(fused[:6], one_by_one)


def test_the_state_dict_holds_weights_and_no_texts():
    fusion = attention(rationales(0, 1))
    of_texts = {name: value.tolist() for name, value in fusion.state_dict().items() if name.startswith("texts.")}
    assert of_texts == {"texts.mean": [0, 0], "texts.scale": 1}
    assert set(fusion.state_dict()) - set(of_texts) == {"linear.weight", "linear.bias", "combine.attention"}
    other = FusionLayer(2, rationales(0, 1))
    other.load_state_dict(fusion.state_dict())
    users = torch.tensor([1, 0])
    expected = fusion(E.expand(2, 2), users)
    assert torch.equal(other(E.expand(2, 2), users), expected)
    assert torch.equal(copy.deepcopy(fusion)(E.expand(2, 2), users), expected)


MANY = np.random.default_rng(0).normal(3, size=(6, 2)).astype(np.float32)


def of_one_user(text):
    return Rationales(text[None], np.array([[0]]), np.ones((1, 1), np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_text_is_scaled_as_in_training_wherever_its_weights_are_loaded(dtype):
    trained = UserTexts(Rationales.of_users(MANY)).to(dtype)
    for served in (Rationales.of_users(MANY[2:]), of_one_user(MANY[2])):
        texts = UserTexts(served).to(dtype)
        texts.load_state_dict(trained.state_dict())
        assert torch.equal(texts.table[0], trained.table[2])
        assert texts.table.dtype == dtype
        assert "table" not in texts.state_dict()


def test_an_items_text_is_scaled_as_in_training_and_none_stays_zero():
    trained, served = ItemTexts(MANY), ItemTexts(np.array([[0, 0], MANY[1], MANY[2] + 9, *MANY[3:]]))
    served.load_state_dict(trained.state_dict())
    assert torch.equal(served.table[[1, 3, 4, 5]], trained.table[[1, 3, 4, 5]])
    assert not served.table[0].any()
    moved = 9 * float(trained.scale)
    torch.testing.assert_close(served.table[2], trained.table[2] + moved)


def test_a_copy_and_a_loaded_layer_are_scaled_alike():
    trained = FusionLayer(2, Rationales.of_users(MANY))
    served = FusionLayer(2, of_one_user(MANY[4]))
    served.load_state_dict(trained.state_dict())
    for layer_ in (served, copy.deepcopy(served)):
        assert torch.equal(layer_(E, torch.tensor([0])), trained(E, torch.tensor([4])))


def test_weights_of_texts_whose_scale_was_not_kept_are_refused():
    fusion = FusionLayer(2, rationales(0, 1))
    older = {name: value for name, value in fusion.state_dict().items() if not name.startswith("texts.")}
    with pytest.raises(FeaturesError, match="how the texts that they were trained with were scaled") as error:
        fusion.load_state_dict(older)
    assert error.value.got == "no texts.mean, no texts.scale"
    assert error.value.hint == "train again"
    with pytest.raises(FeaturesError):
        fusion.load_state_dict(older, strict=False)


def test_weights_of_a_model_without_texts_are_loaded_around_the_layer_where_that_is_asked_for():
    model = torch.nn.ModuleDict({"users": torch.nn.Embedding(2, 2), "fusion": FusionLayer(2, rationales(0, 1))})
    plain = {"users.weight": torch.ones(2, 2)}
    with pytest.raises(RuntimeError, match="Missing"):
        model.load_state_dict(plain)
    assert "fusion.texts.mean" in model.load_state_dict(plain, strict=False).missing_keys
    assert model["users"].weight.eq(1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["attention", "concat", "gate"])
def test_several_seeds_train_in_mixed_precision(kind, dtype):
    torch.manual_seed(0)
    fusion = FusionLayer(2, rationales([0, 1], [1, -1], weights=[[0.25, 0.75], [1, 0]]), kind=kind)
    vectors, users = torch.randn(3, 2), torch.tensor([0, 1, 0])
    expected = fusion(vectors, users)
    with torch.autocast("cpu", dtype=dtype):
        fused = fusion(vectors, users)
        fused.float().square().sum().backward()
    torch.testing.assert_close(fused.float(), expected, atol=0.05, rtol=0.05)
    assert all(weights.grad.isfinite().all() for weights in fusion.parameters())


def test_texts_are_moved_to_mean_zero_and_scaled_by_one_number():
    scaled = TextScale.of(np.array([[5, 1], [1, 1]], dtype=np.float32))
    torch.testing.assert_close(scaled(np.array([[5, 1], [1, 3]], np.float32)), torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    single = np.array([[3, 4]], dtype=np.float32)
    torch.testing.assert_close(TextScale.of(single)(single), torch.tensor([[0.6, 0.8]]))
    same = np.array([[3, 4], [3, 4]], dtype=np.float32)
    assert not TextScale.of(same)(same).any()


def test_the_constant_control_still_says_something():
    constant = Rationales(TEXTS + 1, np.array([[0], [1]]), np.ones((2, 1), np.float32)).constant()
    assert UserTexts(constant).table.any()


def test_items_without_text_stay_zero_and_do_not_move_the_mean():
    items = ItemTexts(np.array([[5, 1], [0, 0], [1, 1]], dtype=np.float32))
    torch.testing.assert_close(items.table, torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    with pytest.raises(FeaturesError, match="1 hold NaN") as error:
        ItemTexts(np.array([[np.nan, 1], [1, 1]], dtype=np.float32))
    assert "2 items" in error.value.got
    with pytest.raises(FeaturesError, match="item texts cannot be used"):
        ItemTexts(np.zeros((2, 2), dtype=np.float32))


def test_what_does_not_fit_is_named():
    with pytest.raises(FeaturesError, match="no such fusion"):
        FusionLayer(2, rationales(0), kind="mean")
    fusion = FusionLayer(2, rationales(0))
    with pytest.raises(FeaturesError, match="user vectors do not fit") as error:
        fusion(torch.zeros(1, 3), torch.tensor([0]))
    assert (error.value.got, error.value.expected) == ("(1, 3)", "(1, 2)")


@pytest.mark.parametrize("row", [-2, 3])
def test_a_row_that_is_no_users_is_refused_and_nobody_is_not(row):
    fusion = FusionLayer(2, rationales(0, 1, 1))
    vectors = torch.randn(2, 2)
    with pytest.raises(FeaturesError, match="user rows point outside the rationales") as error:
        fusion(vectors, torch.tensor([row, 0]))
    assert str(row) in error.value.got
    assert error.value.expected == "rows from -1, which is nobody, to 2"
    assert torch.equal(fusion(vectors, torch.tensor([-1, -1])), vectors)
    assert fusion(vectors[:0], torch.tensor([], dtype=torch.int64)).shape == (0, 2)
