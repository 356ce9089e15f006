"""Models train and score where their parameters are, on an emulated device. Run by ../test_device.py."""

import dataclasses

import numpy as np
import pytest
import torch
from emulated_device import emulated_device, forget
from torch import nn

from ranking.backbones import COLLABORATIVE, FLOORS, SEQUENTIAL, build, pairs
from ranking.ctr_data import CtrData
from ranking.ctr_fitting import CtrSettings, predict
from ranking.ctr_fitting import fit as fit_ctr
from ranking.device import device_of, on_device
from ranking.fitting import FitSettings, evaluate, fit
from ranking.masknet import MaskNetSettings
from ranking.rationales import Rationales
from ranking.sides import FeatureSides
from ranking.wrap import wrap
from reland_features.encoders.lightgcn import adjacency
from reland_features.feast import open_store

SEQUENCES = {"dimension": 8, "length": 6, "batch_size": 128, "dropout": 0.0}
OPTIONS = {
    "gru4rec": {**SEQUENCES, "hidden": 8},
    "sasrec": {**SEQUENCES, "inner": 16},
    "duorec": {**SEQUENCES, "inner": 16, "contrasts": 8},
    "neumf": {"dimension": 8, "widths": (8, 4), "dropout": 0.0, "batch_size": 200, "regularisation": 1e-3},
    "ngcf": {"dimension": 8, "widths": (8, 4), "dropout": 0.0, "batch_size": 200},
    "lightgcn": {"dimension": 8, "batch_size": 200},
}
SETTINGS = FitSettings(learning_rate=0.01, max_epochs=2)


@pytest.fixture
def device(monkeypatch):
    # The emulated device has no sparse matrices, as a GPU has.
    monkeypatch.setattr(pairs, "adjacency", lambda *graph: adjacency(*graph).to_dense())
    yield emulated_device()
    forget()


def sides(split, output="none", per_user=1, by_event=False):
    generator = np.random.default_rng(0)
    users = len(split.items) if by_event else split.n_users
    rows = np.where(generator.random((users, 1)) < 0.2, -1, generator.integers(0, 5, (users, per_user)))
    weights = np.where(rows >= 0, 1 / per_user, 0).astype(np.float32)
    rationales = Rationales(generator.normal(size=(5, 6)).astype(np.float32), rows, weights)
    texts = generator.normal(size=(split.n_items, 6)).astype(np.float32)
    return FeatureSides(texts, rationales, output=output, by_event=by_event)


def both(name, split, device, given=None, settings=SETTINGS, **more):
    """Train on the CPU and on the device; return what validation says of each, and the models."""
    models = [build(name, split, {**OPTIONS[name], **more}, sides=given, seed=1) for _ in range(2)]
    models[1].to(device)
    curves = [fit(model, settings, seed=3).curve for model in models]
    return models, curves


def assert_same(models, curves):
    cpu, there = models
    assert device_of(there).type == "emulated"
    for ours, theirs in zip(*curves, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
    rows = torch.arange(cpu.split.n_users)
    with torch.inference_mode():
        scores = [model.scorer("test")(rows).cpu() for model in models]
    # The same number for all items changes no loss: where it drifts is rounding's.
    scores = [values - values.mean(dim=1, keepdim=True) for values in scores]
    torch.testing.assert_close(*(values / scores[0].std() for values in scores), atol=5e-3, rtol=0.0)


@pytest.mark.parametrize("name", [*SEQUENTIAL, *COLLABORATIVE])
def test_a_backbone_learns_the_same_on_a_device(name, random_split, device):
    assert_same(*both(name, random_split, device, sides(random_split)))


@pytest.mark.parametrize(
    "name, output", [("sasrec", "cross"), ("sasrec", "kar"), ("lightgcn", "slim"), ("neumf", "cross")]
)
def test_outputs_that_read_texts_learn_the_same_on_a_device(name, output, random_split, device):
    assert_same(*both(name, random_split, device, sides(random_split, output, per_user=2)))


def test_sampled_softmax_and_rationales_of_the_time_learn_the_same_on_a_device(random_split, device):
    given = sides(random_split, by_event=True)
    assert_same(*both("sasrec", random_split, device, given, negatives=16, negative_sampling="popularity"))


@pytest.mark.parametrize("name", ["sasrec", "ngcf"])
def test_training_with_dropout_goes_on_after_a_kill_on_a_device(name, random_split, device, tmp_path):
    def trained(state_file=None, progress=None):
        model = build(name, random_split, {**OPTIONS[name], "dropout": 0.5}, seed=1).to(device)
        settings = dataclasses.replace(SETTINGS, max_epochs=4)
        done = fit(model, settings, seed=3, state_file=state_file, progress=progress)
        return model, [(point.loss, point.metrics) for point in done.curve]

    def killed(point):
        if point.epoch == 2:
            raise KeyboardInterrupt

    before = torch.get_rng_state()
    whole, curve = trained()
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "state", killed)
    resumed, again = trained(tmp_path / "state")
    assert again == curve
    for value, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value.cpu(), other.cpu())


@pytest.mark.parametrize("name", FLOORS)
def test_floors_have_nothing_to_move(name, random_split, device):
    floor = build(name, random_split)
    assert evaluate(floor.to(device), "test").means() == evaluate(build(name, random_split), "test").means()


def test_a_tensor_left_on_the_cpu_is_an_error_on_the_emulated_device(device):
    layer = nn.Linear(3, 2).to(device)
    with pytest.raises(RuntimeError, match="a tensor of the CPU"):
        layer(torch.ones(4, 3))
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.ones(4, device=device) + torch.ones(4)
    assert (torch.ones(4, device=device) * torch.tensor(2.0)).cpu().tolist() == [2.0] * 4


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.user_embedding, self.items = nn.Embedding(4, 3), nn.Embedding(5, 3)

    def forward(self, users, items):
        return (self.user_embedding(users) * self.items(items)).sum(-1)


@pytest.mark.parametrize("reads", ["rows", "table"])
@pytest.mark.parametrize("moved_first", [False, True])
def test_a_wrapped_model_is_moved_before_or_after(device, reads, moved_first):
    rows = np.array([[0], [1], [-1], [1]])
    rationales = Rationales(np.eye(2, dtype=np.float32), rows, (rows >= 0).astype(np.float32))
    users, items = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 0, 1, 1])
    results = []
    for place in (torch.device("cpu"), device):
        torch.manual_seed(0)
        model = Foreign()
        if moved_first:
            model.to(place)
        torch.manual_seed(1)
        model = wrap(model, rationales, reads=reads).to(place)
        scores = model(users.to(place), items.to(place))
        scores.square().sum().backward()
        results.append([scores.detach().cpu(), *(value.grad.cpu() for value in model.parameters())])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("kind", ["parallel", "serial"])
def test_masknet_learns_the_same_on_a_device(kind, project, device):
    data = CtrData.of(project, open_store(project.repository), candidates=5, max_users=60, seed=0)
    shape = MaskNetSettings(kind=kind, dimension=4, width=8, dropout=0.0)
    settings = CtrSettings(batch=128, max_epochs=2)
    for given in (data, data.shuffled(0), data.constant()):
        moved = on_device(given, device)
        here, there = fit_ctr(given, shape, settings, seed=1), fit_ctr(moved, shape, settings, seed=1)
        assert device_of(there.model).type == "emulated"
        np.testing.assert_allclose(here.curve, there.curve, rtol=1e-4)
        np.testing.assert_allclose(
            predict(here.model, given, given.test), predict(there.model, moved, moved.test), atol=1e-4
        )


def test_what_holds_tensors_is_moved_and_the_rest_is_left_alone(device):
    @dataclasses.dataclass(frozen=True)
    class Inner:
        values: np.ndarray
        name: str = "n"

    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Inner
        tensors: tuple[torch.Tensor, ...]

    held = Outer(Inner(np.ones(2)), (torch.ones(2), torch.zeros(1)))
    moved = on_device(held, device)
    assert moved.inner is held.inner
    assert [value.device.type for value in moved.tensors] == ["emulated"] * 2
    assert [value.device.type for value in held.tensors] == ["cpu"] * 2
    assert on_device(held.inner, device) is held.inner
    pair = pairs.Pairs(*torch.ones(3, 2))
    assert isinstance(on_device(pair, device), pairs.Pairs)
