"""Where models compute. CI has no GPU: an emulated device shows that nothing is left behind on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ranking.ctr_fitting import train as train_ctr
from ranking.device import chosen_device
from ranking.train import main as train
from reland_features.errors import ConfigError

HERE = Path(__file__).parent


def test_all_that_trains_does_so_on_a_device():
    # In a process of its own: torch must know the device before the first backward pass, and forgets none.
    files = [str(HERE / folder / "on_device.py") for folder in ("backbones", "experiments")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # tensors are tiny
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], env=environment, check=False)
    summary = re.search(r"^(\d+) passed in ", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout
    assert summary, done.stdout
    assert int(summary[1]) >= 24, done.stdout


def test_a_device_is_chosen_by_name(monkeypatch):
    assert chosen_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("auto") == torch.device("cuda")
    assert chosen_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=re.escape("expected: cpu, cuda, cuda:0, cuda:1, auto")):
        chosen_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")
    for name in ("cuda", "gpu"):
        with pytest.raises(ConfigError, match="there is no such device"):
            chosen_device(name)


def test_a_device_is_refused_where_it_would_be_passed_over(project, capsys):
    assert train(["--project", str(project.root), "--device", "cuda"]) == 1
    assert "xgboost is trained on the CPU here" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_one_error_before_any_work(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="there is no such device"):
        train_ctr(project, device="cuda")
