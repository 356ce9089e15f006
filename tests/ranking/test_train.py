"""Who the served rankers learn from, as the command says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from ranking import ctr_fitting, train
from ranking.ctr_fitting import CtrSettings
from ranking.masknet import MaskNetSettings
from ranking.project import RankingProject
from ranking.trained_facts import FACTS
from reland_features.feast import apply_repository


@pytest.fixture(scope="module")
def sampled(project, tmp_path_factory) -> RankingProject:
    """The session's project, copied, with a setting that keeps 50 of the 299 users with held-out events."""
    root = shutil.copytree(project.root, tmp_path_factory.mktemp("sampled") / "project")
    apply_repository(root / "feature_repo")  # its registry names the folder that it was copied from
    opened = RankingProject.open(root)
    return dataclasses.replace(opened, evaluation=opened.evaluation.model_copy(update={"max_users": 50}))


@pytest.mark.parametrize(("options", "users"), [([], 50), (["--max-users", "0"], 299)])
def test_the_command_says_how_many_users_it_learnt_from(sampled, monkeypatch, capsys, options, users):
    monkeypatch.setattr(RankingProject, "open", lambda _: sampled)
    assert train.main(["--project", str(sampled.root), *options]) == 0
    printed = capsys.readouterr()
    assert f"trained on: leave-last-out, {users} users, " in printed.err
    assert json.loads((Path(printed.out.strip()) / FACTS).read_text())["queries"] == users


def test_masknet_learns_from_as_many(sampled):
    short = CtrSettings(max_epochs=1)
    folders = [ctr_fitting.train(sampled, MaskNetSettings(), short, max_users=size) for size in (None, 30)]
    found = [json.loads((folder / FACTS).read_text())["protocol"] for folder in folders]
    assert [text.split(", ")[1] for text in found] == ["50 users", "30 users"]


def test_a_sample_below_0_is_refused(project, capsys):
    assert train.main(["--project", str(project.root), "--max-users", "-1"]) == 1
    assert "max_users = -1" in capsys.readouterr().err
