"""A model that the package does not know, with rationales put into it."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ranking.rationales import Rationales
from ranking.wrap import WrapError, wrap

TEXTS = np.array([[1, 0], [-1, 0]], dtype=np.float32)
ROWS = np.array([[0], [1], [-1], [1]])
RATIONALES = Rationales(TEXTS, ROWS, (ROWS >= 0).astype(np.float32))


class Tower(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, 3)
        self.out = nn.Linear(3, 3)


class Foreign(nn.Module):
    """Looks users up in a tower and scores items by a dot product."""

    def __init__(self, rows: int = 4) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"user": Tower(rows)})
        self.items = nn.Embedding(5, 3)

    def forward(self, users, items, *, temperature=1.0):
        tower = self.towers["user"]
        return (tower.out(tower.embedding(users)) * self.items(items)).sum(-1) / temperature


class Graph(nn.Module):
    """Reads its user table as a whole, as graph models do."""

    def __init__(self, rows: int = 4) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(rows, 3)

    def forward(self):
        return self.user_embedding.weight * 2


def equation_5(fusion, vectors, users):
    """softmax([e·W, z·W]) and the weighted sum, user by user."""
    weights = {name: value.detach().numpy() for name, value in fusion.named_parameters()}
    fused = []
    for e, user in zip(vectors, users, strict=True):
        row = ROWS[user, 0] if user >= 0 else -1
        if row < 0:
            fused.append(e)
            continue
        z = weights["linear.weight"] @ TEXTS[row] + weights["linear.bias"]
        both = np.exp([e @ weights["combine.attention"], z @ weights["combine.attention"]])
        fused.append((both[0] * e + both[1] * z) / both.sum())
    return np.array(fused)


def randomised(model):
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    return model


PATH = "towers.user.embedding"
USERS, CHOSEN = torch.tensor([[0, 1, 2], [3, 1, 0]]), torch.tensor([[0, 1, 2], [3, 4, 0]])


def test_the_wrapped_model_scores_by_equation_5_under_the_same_signature():
    model = randomised(wrap(Foreign(), RATIONALES, user_embedding=PATH))
    tower = model.towers["user"]
    vectors = tower.embedding.weight.detach().numpy()[USERS.flatten()]
    fused = equation_5(tower.embedding.fusion, vectors, USERS.flatten().tolist()).reshape(2, 3, 3)
    out = fused @ tower.out.weight.detach().numpy().T + tower.out.bias.detach().numpy()
    expected = (out * model.items.weight.detach().numpy()[CHOSEN]).sum(-1) / 2
    np.testing.assert_allclose(model(USERS, CHOSEN, temperature=2).detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_step_of_training_moves_the_model_and_the_fusion_layer():
    torch.manual_seed(0)
    model = wrap(Foreign(), RATIONALES, user_embedding=PATH)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss = -nn.functional.logsigmoid(model(USERS, CHOSEN)).mean()
    loss.backward()
    optimizer.step()
    assert -nn.functional.logsigmoid(model(USERS, CHOSEN)).mean() < loss
    assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []


def test_the_weight_keeps_its_place_and_is_not_fused():
    plain = Foreign()
    weight, saved = plain.towers["user"].embedding.weight, set(plain.state_dict())
    model = wrap(plain, RATIONALES, user_embedding=PATH)
    embedding = model.towers["user"].embedding
    assert model is plain
    assert embedding.weight is weight, "an optimizer made before still holds it"
    assert (embedding.num_embeddings, embedding.embedding_dim) == (4, 3)
    assert set(model.state_dict()) - saved == {
        f"{PATH}.fusion.{name}" for name in ("linear.weight", "linear.bias", "combine.attention")
    }
    assert not torch.equal(embedding(torch.tensor([0]))[0], weight[0])
    assert torch.equal(embedding(torch.tensor([2]))[0], weight[2]), "user 2 has no rationale"


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_state_dict_and_deepcopy_give_the_same_scores(reads):
    model = randomised(wrap(Graph(), RATIONALES, reads=reads))
    other = wrap(Graph(), RATIONALES, reads=reads)
    other.load_state_dict(model.state_dict())
    rows = torch.arange(4)
    for same in (other, copy.deepcopy(model)):
        assert torch.equal(same(), model())
        assert torch.equal(same.user_embedding(rows), model.user_embedding(rows))


def test_a_model_that_reads_the_table_gets_it_fused():
    model = randomised(wrap(Graph(), RATIONALES, reads="table"))
    parametrization = model.user_embedding.parametrizations.weight
    fused = equation_5(parametrization[0].fusion, parametrization.original.detach().numpy(), range(4))
    np.testing.assert_allclose(model().detach(), 2 * fused, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.user_embedding(torch.tensor([3])).detach(), fused[3:], rtol=1e-4, atol=1e-5)
    model().sum().backward()
    assert all(value.grad.any() for value in model.parameters())


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_a_padding_row_comes_first(reads):
    model = randomised(wrap(Graph(5), RATIONALES, first_row=1, reads=reads))
    rows = torch.arange(5)
    fused = model.user_embedding(rows).detach().numpy()
    embedding = model.user_embedding
    if reads == "rows":
        fusion, original = embedding.fusion, embedding.weight
    else:
        fusion, original = embedding.parametrizations.weight[0].fusion, embedding.parametrizations.weight.original
    expected = equation_5(fusion, original.detach().numpy(), [-1, 0, 1, 2, 3])
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(fused[0], original[0].detach().numpy())


def test_what_cannot_be_wrapped_is_named():
    with pytest.raises(WrapError, match="no such attribute") as error:
        wrap(Foreign(), RATIONALES)
    assert error.value.where == "Foreign.user_embedding"
    assert error.value.expected == "towers.user.embedding, items"
    with pytest.raises(WrapError, match="no embedding") as error:
        wrap(Foreign(), RATIONALES, user_embedding="towers.user.out")
    assert error.value.got == "Linear"
    with pytest.raises(WrapError, match="another number of users") as error:
        wrap(Graph(5), RATIONALES)
    assert error.value.hint == "first_row=1, if row 0 is padding"
    with pytest.raises(WrapError, match="another number of users") as error:
        wrap(Graph(3), RATIONALES)
    assert "first_row" not in error.value.hint
    for reads in ("rows", "table"):
        with pytest.raises(WrapError, match="wrapped already"):
            wrap(wrap(Graph(), RATIONALES, reads=reads), RATIONALES)


def test_the_example_runs_in_a_project_folder(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "wrap_your_ranker.py"))
    assert "have a rationale" in capsys.readouterr().out
