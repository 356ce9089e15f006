"""A training that is killed goes on from its last evaluation and ends as if nothing had happened."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranking.backbones import COLLABORATIVE, SEQUENTIAL, build
from ranking.device import kept_weights
from ranking.fitting import FitSettings, fit
from ranking.rationales import Rationales
from ranking.sides import FeatureSides
from reland_features.errors import ArtifactError

SETTINGS = FitSettings(max_epochs=6, evaluate_every=2, patience=9)


class KilledError(Exception): ...


def kill_after(evaluations):
    """Stop a training after so many evaluations, as a kill right after the state was written would."""
    seen = []

    def progress(point):
        seen.append(point)
        if len(seen) == evaluations:
            raise KilledError

    return progress


def untimed(done):
    return [replace(point, seconds=0.0) for point in done.curve]


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, SETTINGS) for name in [*SEQUENTIAL, *COLLABORATIVE]), ("gru4rec", replace(SETTINGS, schedule="cosine"))],
)
def test_a_killed_training_ends_in_the_same_weights(name, settings, random_split, tmp_path):
    def make():
        return build(name, random_split, {"dimension": 8, "batch_size": 16}, seed=3)

    undisturbed, killed, resumed = make(), make(), make()
    expected = fit(undisturbed, settings, seed=5)
    state = tmp_path / "weights" / "run.training"
    with pytest.raises(KilledError):
        fit(killed, settings, seed=5, state_file=state, progress=kill_after(1))
    torch.manual_seed(99)  # another process has other random numbers
    seen = []
    found = fit(resumed, settings, seed=5, state_file=state, progress=seen.append)
    assert [point.epoch for point in seen] == [4, 6]
    assert untimed(found) == untimed(expected)
    assert (found.best, found.best_epoch, found.epochs) == (expected.best, expected.best_epoch, expected.epochs)
    for (key, one), other in zip(undisturbed.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_a_training_that_was_killed_after_its_last_evaluation_takes_no_further_step(random_split, tmp_path):
    state = tmp_path / "run.training"

    def make():
        return build("sasrec", random_split, {"dimension": 8, "batch_size": 16})

    with pytest.raises(KilledError):
        fit(make(), SETTINGS, state_file=state, progress=kill_after(3))
    seen = []
    backbone = make()
    assert fit(backbone, SETTINGS, state_file=state, progress=seen.append).epochs == 6
    assert seen == []
    assert fit(make(), SETTINGS).best == fit(backbone, SETTINGS, state_file=state).best


def test_a_kill_while_the_state_is_written_leaves_the_former_one(random_split, tmp_path, monkeypatch):
    state = tmp_path / "run.training"
    backbone = build("gru4rec", random_split, {"dimension": 8, "batch_size": 16})
    with pytest.raises(KilledError):
        fit(backbone, SETTINGS, state_file=state, progress=kill_after(1))
    former = state.read_bytes()

    def torn(content, path):
        path.write_bytes(b"half")
        raise KilledError

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KilledError):
        fit(backbone, SETTINGS, state_file=state)
    assert state.read_bytes() == former


OPTIONS = {"dimension": 8, "batch_size": 16}


@pytest.fixture
def state(random_split, tmp_path):
    """Return the state file of a SASRec that was killed after its first evaluation."""
    path = tmp_path / "run.training"
    with pytest.raises(KilledError):
        fit(build("sasrec", random_split, OPTIONS), SETTINGS, seed=5, state_file=path, progress=kill_after(1))
    return path


def refused(backbone, settings, seed, state):
    """Return the error of going on from a state; neither the backbone nor the file is then changed."""
    before, content = kept_weights(backbone), state.read_bytes()
    with pytest.raises(ArtifactError) as raised:
        fit(backbone, settings, seed=seed, state_file=state)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert state.read_bytes() == content
    assert raised.value.where == str(state)
    assert "delete it to start anew" in raised.value.hint
    return raised.value


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_state_that_is_cut_off_is_refused(kept, random_split, state):
    whole = state.read_bytes()
    state.write_bytes(whole[: int(kept * len(whole))])
    error = refused(build("sasrec", random_split, OPTIONS), SETTINGS, 5, state)
    assert error.what == "the state of training cannot be read"
    assert error.got


@pytest.mark.parametrize("content", [{"items.weight": torch.zeros(3)}, torch.zeros(3)])
def test_a_file_that_is_no_state_is_refused(content, random_split, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    error = refused(build("sasrec", random_split, OPTIONS), SETTINGS, 5, tmp_path / "weights.pt")
    assert error.what == "the file is no state of training"


@pytest.mark.parametrize(
    "change, got, expected",
    [
        ({"learning_rate": 0.05}, "learning_rate 0.001", "learning_rate 0.05"),
        (
            {"weight_decay": 0.1, "evaluate_every": 1},
            "weight_decay 0.0, evaluate_every 2",
            "weight_decay 0.1, evaluate_every 1",
        ),
        ({"validation_users": 3}, "validation_users None", "validation_users 3"),
    ],
)
def test_a_state_of_other_settings_is_refused(change, got, expected, random_split, state):
    error = refused(build("sasrec", random_split, OPTIONS), replace(SETTINGS, **change), 5, state)
    assert (error.got, error.expected) == (got, expected)


def test_a_training_may_go_on_for_longer(random_split, tmp_path):
    short, long = replace(SETTINGS, max_epochs=2), replace(SETTINGS, max_epochs=4, patience=3)
    backbone = build("sasrec", random_split, OPTIONS)
    fit(backbone, short, seed=5, state_file=tmp_path / "state")
    more = fit(build("sasrec", random_split, OPTIONS), long, seed=5, state_file=tmp_path / "state")
    assert [point.epoch for point in more.curve] == [2, 4]


def test_a_training_whose_learning_rate_falls_towards_another_end_is_another(random_split, tmp_path):
    short = replace(SETTINGS, schedule="cosine", max_epochs=2)
    fit(build("sasrec", random_split, OPTIONS), short, seed=5, state_file=tmp_path / "state")
    error = refused(
        build("sasrec", random_split, OPTIONS), replace(short, max_epochs=4, patience=3), 5, tmp_path / "state"
    )
    assert (error.got, error.expected) == ("max_epochs 2", "max_epochs 4")


def test_a_state_of_another_seed_is_refused(random_split, state):
    error = refused(build("sasrec", random_split, OPTIONS), SETTINGS, 6, state)
    assert (error.got, error.expected) == ("seed 5", "seed 6")


@pytest.mark.parametrize(
    "name, options, got, expected",
    [
        ("gru4rec", {}, "SASRec", "GRU4Rec"),
        ("duorec", {}, "backbone SASRec, weight is not there", "backbone DuoRec, weight 0.1"),
        ("sasrec", {"dimension": 4}, "items.weight (43, 8)", "items.weight (43, 4)"),
        ("sasrec", {"layers": 3}, "is not there", "blocks.2."),
        ("sasrec", {"dropout": 0.1}, "rate 0.5", "rate 0.1"),
        ("sasrec", {"batch_size": 32}, "batch_size 16", "batch_size 32"),
        ("sasrec", {"heads": 4}, "blocks.0.heads 2", "blocks.0.heads 4"),
        ("sasrec", {"negative_sampling": "popularity"}, "negative_sampling uniform", "negative_sampling popularity"),
    ],
)
def test_a_state_of_another_backbone_is_refused(name, options, got, expected, random_split, state):
    error = refused(build(name, random_split, {**OPTIONS, **options}), SETTINGS, 5, state)
    assert got in error.got
    assert expected in error.expected


def test_a_state_of_other_training_data_is_refused(random_split, state):
    error = refused(build("sasrec", random_split.keep_last(20), OPTIONS), SETTINGS, 5, state)
    assert "training part" in error.got


@pytest.mark.parametrize("changed", ["targets", "masked"])
def test_a_state_of_another_validation_part_is_refused(changed, random_split, tmp_path):
    split = random_split.keep_last(3)
    state = tmp_path / "run.training"
    with pytest.raises(KilledError):
        fit(build("sasrec", split, OPTIONS), SETTINGS, seed=5, state_file=state, progress=kill_after(1))
    if changed == "targets":
        items = split.items.copy()
        held = split.offsets[:-1] + split.training
        items[held] = (items[held] + 1) % split.n_items
        other = replace(split, items=items)
    else:
        other = replace(split, cut_away=None)
    error = refused(build("sasrec", other, OPTIONS), SETTINGS, 5, state)
    assert "training part" not in error.got
    assert error.got.startswith("validation part ")


@pytest.fixture
def featured(random_split, tmp_path):
    """Return what makes a LightGCN with features, and the state of one that was killed after an evaluation."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(random_split.n_items, 6)).astype(np.float32)
    rows = rng.integers(4, size=(random_split.n_users, 1))
    rationales = Rationales(rng.normal(size=(4, 6)).astype(np.float32), rows, np.ones(rows.shape, np.float32))

    def make(rationales=rationales, texts=texts, **options):
        sides = FeatureSides(texts, rationales, **options)
        return build("lightgcn", random_split, {"dimension": 8}, sides=sides, seed=3)

    path = tmp_path / "run.training"
    with pytest.raises(KilledError):
        fit(make(), SETTINGS, seed=5, state_file=path, progress=kill_after(1))
    return make, path, rationales, texts


def assert_goes_on_as_undisturbed(make, state):
    """A training that was killed after its first evaluation ends in the weights of one that was not."""
    undisturbed, resumed, seen = make(), make(), []
    fit(undisturbed, SETTINGS, seed=5)
    fit(resumed, SETTINGS, seed=5, state_file=state, progress=seen.append)
    assert [point.epoch for point in seen] == [4, 6]
    for (key, one), other in zip(undisturbed.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_a_training_with_features_goes_on_with_the_same_ones(featured):
    make, state, _, _ = featured
    assert_goes_on_as_undisturbed(make, state)


@pytest.mark.parametrize("output", ["none", "cross", "kar"])
def test_a_state_of_other_features_is_refused(output, featured, random_split, tmp_path):
    make, _, rationales, texts = featured
    state = tmp_path / "output.training"
    with pytest.raises(KilledError):
        fit(make(output=output), SETTINGS, seed=5, state_file=state, progress=kill_after(1))
    two = np.repeat(rationales.rows, 2, axis=1)
    halves = [Rationales(rationales.embeddings, two, np.tile(np.float32([w, 1 - w]), (len(two), 1))) for w in (0.5, 1)]
    mixed = tmp_path / "mixed.training"
    fit(make(halves[0], output=output), replace(SETTINGS, max_epochs=2), seed=5, state_file=mixed)
    for backbone, path, differs in (
        (make(rationales.shuffled(1), output=output), state, "texts.rows"),
        (make(Rationales(-rationales.embeddings, *_rest(rationales)), output=output), state, "texts.table"),
        (make(halves[1], output=output), mixed, "texts.weights"),
        (make(texts=-texts, output=output), state, "texts.table"),
    ):
        error = refused(backbone, SETTINGS, 5, path)
        assert differs in error.got
        assert differs in error.expected


def _rest(rationales):
    return rationales.rows, rationales.weights


def test_a_state_of_another_dropout_of_the_rationale_is_refused(featured):
    make, state, _, _ = featured
    error = refused(make(dropout=0.5), SETTINGS, 5, state)
    assert (error.got, error.expected) == ("user_side.dropout.p 0.0", "user_side.dropout.p 0.5")


def test_a_state_of_another_fusion_is_refused_though_its_weights_have_the_same_shapes(featured, tmp_path):
    make, _, _, _ = featured
    state = tmp_path / "concat.training"
    with pytest.raises(KilledError):
        fit(make(fusion="concat"), SETTINGS, seed=5, state_file=state, progress=kill_after(1))
    error = refused(make(fusion="gate"), SETTINGS, 5, state)
    assert (error.got, error.expected) == ("user_side.kind concat", "user_side.kind gate")


def test_a_state_from_before_the_fusion_and_the_validation_part_were_recorded_is_gone_on_from(featured):
    make, state, _, _ = featured
    content = torch.load(state, weights_only=True)
    for name in ("user_side.kind", "validation part"):
        del content["decided_by"][name]
    torch.save(content, state)
    error = refused(make(), replace(SETTINGS, learning_rate=0.05), 5, state)
    assert (error.got, error.expected) == ("learning_rate 0.001", "learning_rate 0.05")
    assert_goes_on_as_undisturbed(make, state)


@pytest.mark.parametrize("name", [*SEQUENTIAL, *COLLABORATIVE])
def test_without_features_nothing_is_recorded_of_them(name, random_split, tmp_path):
    path = tmp_path / "run.training"
    settings = replace(SETTINGS, max_epochs=2)
    fit(build(name, random_split, {"dimension": 8}), settings, state_file=path)
    recorded = torch.load(path, weights_only=True)["decided_by"]
    hashes = [key for key, value in recorded.items() if isinstance(value, str) and len(value) == 16]
    assert hashes == ["training part", "validation part"]
    assert not [key for key in recorded if key.endswith((".p", ".kind"))]


def test_numbers_of_numpy_are_kept_and_compared_as_numbers(random_split, tmp_path):
    options = {**OPTIONS, "dropout": np.float64(0.3), "batch_size": np.int64(16)}
    path = tmp_path / "run.training"
    with pytest.raises(KilledError):
        fit(build("sasrec", random_split, options), SETTINGS, state_file=path, progress=kill_after(1))
    options = {**OPTIONS, "dropout": 0.3, "batch_size": 16}
    assert fit(build("sasrec", random_split, options), SETTINGS, state_file=path).epochs == 6


def test_a_state_from_before_settings_were_kept_is_gone_on_from_unless_its_rate_differs(random_split, state):
    content = torch.load(state, weights_only=True)
    del content["decided_by"]
    torch.save(content, state)
    error = refused(build("sasrec", random_split, OPTIONS), replace(SETTINGS, learning_rate=0.05), 5, state)
    assert (error.got, error.expected) == ("learning_rate 0.001", "learning_rate 0.05")
    refused(build("sasrec", random_split, {**OPTIONS, "dimension": 4}), SETTINGS, 5, state)
    seen = []
    fit(build("sasrec", random_split, OPTIONS), SETTINGS, seed=5, state_file=state, progress=seen.append)
    assert [point.epoch for point in seen] == [4, 6]
