import subprocess
import sys

import pytest

from benchmarks.workers import ask, make_environment
from reland_features.errors import RelandError

WORKER = """
import json, os, sys
request = json.load(sys.stdin)
print(json.dumps({"loading": True}))
print(json.dumps({**request, "threads": os.environ["OMP_NUM_THREADS"], "folder": os.getcwd()}))
"""


def test_a_killed_install_is_done_again_and_a_finished_one_is_not(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        if len(commands) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        make_environment(tmp_path, ["recbole==1.2.1"])
    make_environment(tmp_path, ["recbole==1.2.1"])
    assert len(commands) == 4
    make_environment(tmp_path, ["recbole==1.2.1"])
    assert len(commands) == 4
    make_environment(tmp_path, ["recbole==1.2.2"])
    assert len(commands) == 6


def test_a_worker_has_its_request_threads_and_folder(tmp_path):
    lines = ask([sys.executable, "-c", WORKER], {"model": "SASRec"}, tmp_path, threads=3)
    assert lines == [{"loading": True}, {"model": "SASRec", "threads": "3", "folder": str(tmp_path.resolve())}]


def test_a_worker_that_fails_is_an_error(tmp_path):
    with pytest.raises(RelandError, match="did not finish"):
        ask([sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path, threads=1)
