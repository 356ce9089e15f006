"""A model that the package does not know, with rationales put into it."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ranking.compact_views import FeaturesError
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
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss = -nn.functional.logsigmoid(model(USERS, CHOSEN)).mean()
    loss.backward()
    optimizer.step()
    assert -nn.functional.logsigmoid(model(USERS, CHOSEN)).mean() < loss
    assert [name for name, value in model.named_parameters() if torch.equal(value, before[name])] == []


def test_the_weight_keeps_its_place_and_is_not_fused():
    plain = Foreign()
    weight, saved = plain.towers["user"].embedding.weight, set(plain.state_dict())
    model = wrap(plain, RATIONALES, user_embedding=PATH)
    embedding = model.towers["user"].embedding
    assert model is plain
    assert embedding.weight is weight, "an optimizer made before still holds it"
    assert (embedding.num_embeddings, embedding.embedding_dim) == (4, 3)
    assert set(model.state_dict()) - saved == {
        f"{PATH}.fusion.{name}"
        for name in ("linear.weight", "linear.bias", "combine.attention", "texts.mean", "texts.scale")
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


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_a_user_is_scored_as_in_training_where_few_users_have_a_text(reads):
    texts = np.random.default_rng(0).normal(2, size=(4, 5)).astype(np.float32)
    model = randomised(wrap(Graph(), Rationales.of_users(texts), reads=reads))
    few = wrap(Graph(), Rationales.of_users(texts, np.array([False, True, False, True])), reads=reads)
    few.load_state_dict(model.state_dict())
    rows = torch.tensor([1, 3])
    torch.testing.assert_close(few.user_embedding(rows), model.user_embedding(rows), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_weights_that_do_not_say_how_texts_were_scaled_are_refused(reads):
    model = wrap(Graph(), RATIONALES, reads=reads)
    older = {name: value for name, value in model.state_dict().items() if ".texts." not in name}
    with pytest.raises(FeaturesError, match="how the texts that they were trained with were scaled"):
        model.load_state_dict(older)


class Shared(nn.Module):
    """Holds one embedding under many names, of which it reads one."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"user": nn.Embedding(4, 3)})
        self.alias = self.tables["user"]
        self.tower = nn.Sequential(self.alias, nn.Linear(3, 2))
        self.listed = [self.alias]
        self.reads = reads

    @property
    def user_embedding(self):
        return self.tables["user"]

    def forward(self, users):
        if self.reads == "sequential":
            return self.tower(users)
        return {"property": self.user_embedding, "alias": self.alias, "list": self.listed[0]}[self.reads](users)


@pytest.mark.parametrize("path", ["user_embedding", "alias", "tables.user", "tower.0"])
@pytest.mark.parametrize("reads", ["sequential", "property", "alias", "list"])
def test_a_user_is_fused_by_whatever_name_the_model_looks_it_up(reads, path):
    torch.manual_seed(0)
    model, users = Shared(reads), torch.arange(4)
    before = model(users)
    wrap(model, RATIONALES, user_embedding=path)
    after = model(users)
    assert torch.equal(after[2], before[2]), "user 2 has no rationale"
    assert not torch.isclose(after[[0, 1, 3]], before[[0, 1, 3]]).any()
    after.sum().backward()
    assert all(weights.grad is not None for weights in model.alias.parameters())
    copied = copy.deepcopy(model)
    assert torch.equal(copied(users), after)
    assert copied.alias.fusion is copied.tables["user"].fusion is not model.alias.fusion


class Anew(Graph):
    """Makes its embedding at every access, or hides it in a list."""

    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.user_embedding, self.listed = None, [nn.Embedding(4, 3)] if listed else []

    @property
    def table(self):
        return self.listed[0] if self.listed else nn.Embedding(4, 3)


@pytest.mark.parametrize("reads", ["rows", "table"])
@pytest.mark.parametrize("listed", [True, False])
def test_an_embedding_that_is_not_the_models_is_refused(listed, reads):
    with pytest.raises(WrapError, match="no module of the model"):
        wrap(Anew(listed), RATIONALES, user_embedding="table", reads=reads)


class Tenfold(nn.Embedding):
    def forward(self, rows):
        return 10 * super().forward(rows)


class Hashed(nn.Embedding):
    def forward(self, rows):
        return super().forward(rows % self.num_embeddings)


class Pooled(nn.Embedding):
    def forward(self, rows):
        return super().forward(rows).mean(0)


def of_class(kind):
    model = Graph()
    model.user_embedding = kind(4, 3)
    return model


def test_an_embedding_of_its_own_class_keeps_what_it_does():
    model = of_class(Tenfold)
    randomised(wrap(model, RATIONALES))
    embedding, rows = model.user_embedding, torch.arange(4)
    expected = equation_5(embedding.fusion, 10 * embedding.weight.detach().numpy(), range(4))
    np.testing.assert_allclose(embedding(rows).detach(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedding(rows=rows).detach(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(embedding, Tenfold)


@pytest.mark.parametrize("kind, rows", [(Hashed, [1, 4]), (Hashed, [1, 7]), (Hashed, [-1, 1]), (Pooled, [0, 1])])
def test_an_embedding_whose_rows_are_not_its_users_says_so(kind, rows):
    model = wrap(of_class(kind), RATIONALES)
    with pytest.raises(WrapError, match="does not map rows of users") as error:
        model.user_embedding(torch.tensor(rows))
    assert error.value.where == "Graph.user_embedding"
    assert "FusionLayer" in error.value.hint


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_hooks_of_the_embedding_still_run(reads):
    model, seen = Graph(), []
    model.user_embedding.register_forward_hook(lambda module, given, vectors: seen.append(given[0]))
    wrap(model, RATIONALES, reads=reads)
    rows = torch.tensor([3])
    model.user_embedding(rows)
    assert seen == [rows]


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_another_parametrization_of_the_embedding_is_kept(reads):
    model = Graph()
    nn.utils.parametrizations.weight_norm(model.user_embedding)
    rows = torch.arange(4)
    before = model.user_embedding(rows).detach()
    embedding = wrap(model, RATIONALES, reads=reads).user_embedding
    fusion = embedding.fusion if reads == "rows" else embedding.parametrizations.weight[1].fusion
    np.testing.assert_allclose(embedding(rows).detach(), equation_5(fusion, before.numpy(), range(4)), rtol=1e-4)
    with pytest.raises(WrapError, match="wrapped already"):
        wrap(model, RATIONALES, reads=reads)


@pytest.mark.parametrize("reads", ["rows", "table"])
def test_a_last_row_that_is_padding_is_no_user(reads):
    model = Graph()
    model.user_embedding = nn.Embedding(5, 3, padding_idx=-1)
    embedding = randomised(wrap(model, RATIONALES, reads=reads)).user_embedding
    fusion = embedding.fusion if reads == "rows" else embedding.parametrizations.weight[0].fusion
    original = embedding.weight if reads == "rows" else embedding.parametrizations.weight.original
    fused = embedding(torch.arange(5)).detach()
    expected = equation_5(fusion, original.detach().numpy(), [0, 1, 2, 3, -1])
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(fused[4], original[4].detach())


def test_a_way_of_reading_that_there_is_not_is_refused_and_the_model_is_as_it_was():
    model = Graph()
    before = str(model)
    with pytest.raises(WrapError, match="no such way to read users") as error:
        wrap(model, RATIONALES, reads="tabel")
    assert (error.value.got, error.value.expected) == ("tabel", "rows or table")
    assert str(model) == before


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
    assert error.value.hint == "first_row=1, if row 0 is padding; give the embedding a padding_idx, if the last row is"
    padded = Graph()
    padded.user_embedding = nn.Embedding(5, 3, padding_idx=0)
    with pytest.raises(WrapError, match="another number of users") as error:
        wrap(padded, RATIONALES)
    assert error.value.hint == "first_row=1: row 0 is padding"
    named = Graph()
    named.user_embedding.fusion = nn.Linear(3, 3)
    with pytest.raises(WrapError, match="of the name that the FusionLayer would take"):
        wrap(named, RATIONALES)
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
