"""A training that is killed goes on from its last evaluation and ends as if nothing had happened."""

from dataclasses import replace

import pytest
import torch

from ranking.backbones import COLLABORATIVE, SEQUENTIAL, build
from ranking.fitting import FitSettings, fit

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


@pytest.mark.parametrize("name", [*SEQUENTIAL, *COLLABORATIVE])
def test_a_killed_training_ends_in_the_same_weights(name, random_split, tmp_path):
    def make():
        return build(name, random_split, {"dimension": 8, "batch_size": 16}, seed=3)

    undisturbed, killed, resumed = make(), make(), make()
    expected = fit(undisturbed, SETTINGS, seed=5)
    state = tmp_path / "weights" / "run.training"
    with pytest.raises(KilledError):
        fit(killed, SETTINGS, seed=5, state_file=state, progress=kill_after(1))
    torch.manual_seed(99)  # another process has other random numbers
    seen = []
    found = fit(resumed, SETTINGS, seed=5, state_file=state, progress=seen.append)
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
