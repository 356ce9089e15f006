"""A checkpoint is whole or not there, and meets only the features it was trained on."""

from __future__ import annotations

import json

import pytest
import torch

from ranking.checkpoints import read_checkpoint, weights_id, write_checkpoint
from reland_features.errors import ArtifactError

RUN = {"features_run": "run-1", "pool_version": "pool-1"}


def test_what_is_written_is_read(tmp_path):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    folder = write_checkpoint(model.state_dict(), {**RUN, "settings": {"width": 2}}, tmp_path / "masknet")
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "ranker.json"]
    found = read_checkpoint(tmp_path / "masknet", RUN)
    assert found.name == folder.name
    assert found.facts == {**RUN, "settings": {"width": 2}}
    found.fill(other)
    assert not other.training
    torch.testing.assert_close(other.weight, model.weight, atol=0, rtol=0)


def test_the_last_one_written_is_current_and_the_same_one_has_the_same_name(tmp_path):
    folder = tmp_path / "masknet"
    one, two = ({"w": torch.full((2,), float(n))} for n in (1, 2))
    first = write_checkpoint(one, RUN, folder)
    second = write_checkpoint(two, RUN, folder)
    assert first != second
    assert read_checkpoint(folder, RUN).name == second.name
    assert write_checkpoint(one, RUN, folder) == first
    assert read_checkpoint(folder, RUN).weights["w"].tolist() == [1.0, 1.0]
    assert not list(folder.glob("*.partial"))


def test_a_write_that_was_cut_short_leaves_the_current_one(tmp_path):
    folder = tmp_path / "masknet"
    kept = write_checkpoint({"w": torch.ones(2)}, RUN, folder)
    with pytest.raises(TypeError):
        write_checkpoint({"w": torch.zeros(2)}, {**RUN, "not JSON": object}, folder)
    assert read_checkpoint(folder, RUN).name == kept.name


def test_other_features_are_refused_by_name(tmp_path):
    folder = tmp_path / "sasrec"
    write_checkpoint({"w": torch.ones(2)}, RUN, folder)
    with pytest.raises(ArtifactError, match="the sasrec was trained on other features") as error:
        read_checkpoint(folder, {**RUN, "features_run": "run-2"})
    assert error.value.got == "{'features_run': 'run-1'}"
    assert error.value.expected == "{'features_run': 'run-2'}"
    assert "--model sasrec" in error.value.hint


def test_none_and_a_damaged_one(tmp_path):
    with pytest.raises(ArtifactError, match="no masknet has been trained"):
        read_checkpoint(tmp_path / "masknet", RUN)
    found = write_checkpoint({"w": torch.ones(2)}, RUN, tmp_path / "masknet")
    with pytest.raises(ArtifactError, match="do not fit the model"):
        read_checkpoint(tmp_path / "masknet", RUN).fill(torch.nn.Linear(3, 2))
    (found / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_checkpoint(tmp_path / "masknet", RUN)
    (tmp_path / "masknet" / "current.json").write_text(json.dumps({"model": "gone"}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_checkpoint(tmp_path / "masknet", RUN)


def test_weights_have_an_id_that_any_change_of_them_changes():
    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert weights_id(first) != weights_id(second)
    second.load_state_dict(first.state_dict())
    assert weights_id(first) == weights_id(second)
    with torch.no_grad():
        second.bias[1] += 1e-6
    assert weights_id(first) != weights_id(second)
