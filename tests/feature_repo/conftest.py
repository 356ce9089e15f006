"""One applied and materialized project for all tests of this folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from toy_project import REPOSITORY, Toy, make_toy, write_project

from reland_features.feast import apply_repository, materialize, open_store
from reland_features.publishing import publish


class Applied(NamedTuple):
    """A project folder whose run-1 is online."""

    root: Path
    toy: Toy

    @property
    def repository(self) -> Path:
        return self.root / "feature_repo"

    def store(self):
        return open_store(self.repository)


@pytest.fixture(scope="session")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """110 users, applied with the stock command and materialized; tests only read it."""
    toy = make_toy(users=110)
    root = write_project(tmp_path_factory.mktemp("applied") / "project", toy)
    apply_repository(root / "feature_repo")
    materialize(root / "feature_repo", root / "features")
    return Applied(root, toy)


@dataclass
class Moved:
    """A copy that tests may publish into; every run is newer than the ones before."""

    root: Path
    days: itertools.count = field(default_factory=lambda: itertools.count(5))

    @property
    def repository(self) -> Path:
        return self.root / "feature_repo"

    @property
    def features(self) -> Path:
        return self.root / "features"

    def publish(self, toy: Toy, version: str) -> tuple[str, datetime]:
        created_at = datetime(2024, 3, next(self.days))
        run_id = f"run-{created_at.day}"
        publish(toy.features(version, created_at), self.features, run_id)
        return run_id, created_at


@pytest.fixture(scope="session")
def feast() -> Callable[..., None]:
    """Run the stock command in a folder."""

    def run(folder: Path, *arguments: str) -> None:
        # In a checkout the package may not be installed; the command is Feast's own either way.
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY.parent)}
        command = [Path(sys.executable).with_name("feast"), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def moved(applied: Applied, feast: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """The project in another folder, with empty stores, applied from inside its repository."""
    root = tmp_path_factory.mktemp("moved") / "project"
    shutil.copytree(applied.root, root)
    shutil.rmtree(root / "feature_repo" / "data")
    feast(root / "feature_repo", "apply")
    return Moved(root)


@pytest.fixture
def redis(tmp_path, monkeypatch):
    """Run a Redis server on a free loopback port; skip where none is installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.05)
    monkeypatch.setenv("RELAND_REDIS", f"127.0.0.1:{port}")
    yield port
    server.terminate()
    server.wait()
