"""Projects of two days: one that is refreshed, and one of the first day for each test."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from reland_features.pipeline import refresh, run
from reland_features.project import Project

sys.path.insert(0, str(Path(__file__).resolve().parent))

from two_days import EARLY, LATE, Days, make, opened


@pytest.fixture(scope="session", params=["lightgcn", "sasrec"])
def days(request, tmp_path_factory) -> Days:
    project = make(tmp_path_factory.mktemp("days") / "D", f"encoder.name={request.param}")
    encoder = f"encoder.name={request.param}"
    first = run(opened(project, encoder, EARLY), "publish")
    return Days(project, first, refresh(opened(project, encoder, LATE, "rationales.engine=openai")))


@pytest.fixture(scope="session")
def early(tmp_path_factory) -> Project:
    """A project of the first day, with the marts of the second."""
    project = make(tmp_path_factory.mktemp("early") / "D")
    run(opened(project, EARLY), "publish")
    run(opened(project, LATE), "prepare")  # once: each of the tests would have dbt build them again
    return project


@pytest.fixture
def project(early, tmp_path) -> Project:
    return opened(Project.open(shutil.copytree(early.root, tmp_path / "D")))
