"""One project whose rationales decide what is held out, with a trained ranker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "feature_repo"))
sys.path.insert(0, str(Path(__file__).resolve().parent))  # emulated_device

from toy_project import make_toy, write_project

from ranking.project import RankingProject
from ranking.train import main as train
from reland_features.feast import apply_repository, materialize


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> RankingProject:
    """300 users of three tastes over 60 items; tests only read it."""
    root = write_project(tmp_path_factory.mktemp("ranking") / "project", make_toy(users=300, items=60, seeds=12))
    apply_repository(root / "feature_repo")
    materialize(root / "feature_repo", root / "features")
    assert train(["--project", str(root)]) == 0
    return RankingProject.open(root)
