"""Runs are trained on the device that is named, here an emulated one. Run by ../test_device.py."""

import torch
from emulated_device import emulated_device, forget

from ranking.device import device_of
from ranking.experiments import runner, study


def test_a_device_is_where_runs_are_trained_and_their_weights_are_read_anywhere(world, monkeypatch, capsys):
    places, chosen = [], {"cpu": torch.device("cpu"), "cuda": emulated_device()}
    for module in (runner, study):
        monkeypatch.setattr(module, "chosen_device", chosen.__getitem__)
    trained = runner.fit
    monkeypatch.setattr(
        runner, "fit", lambda model, *a, **k: places.append(device_of(model)) or trained(model, *a, **k)
    )
    sasrec = ("--backbones", "sasrec", "--variants", "f_item")
    assert world.run("table2", *sasrec, "--device", "cuda") == 0
    assert {place.type for place in places} == {"emulated"}
    assert len(places) == len(world.raw()) == 2
    forget()
    for device in ("cpu", "cuda"):
        case = ("case", "--user", "u3", "--backbone", "sasrec", "--variants", "f_item")
        assert world.run(*case, "--device", device) == 0
        assert "Held out:" in capsys.readouterr().out
    assert len(places) == 2
    forget()
