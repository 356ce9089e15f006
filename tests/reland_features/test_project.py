import subprocess
import sys

import pytest

from reland_features.config import parse
from reland_features.errors import ArtifactError, FeatureStoreError
from reland_features.project import Project

CONFIG = {"data": {"interactions": "i", "items": "t", "columns": {"interactions": {"order": "pos"}}}}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, parse(CONFIG))


def test_only_one_process_works_on_a_project(project):
    code = (
        "import sys; from pathlib import Path; from reland_features.project import Project\n"
        "from reland_features.config import parse\n"
        f"with Project(Path({str(project.root)!r}), parse({CONFIG!r})).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError) as caught, project.lock():
            pass
        assert str(other.pid) in caught.value.got
        other.kill()
    with project.lock():  # a killed process leaves no lock behind
        pass


def test_before_the_first_run_nothing_is_current(project):
    with pytest.raises(FeatureStoreError) as caught:
        project.current()
    assert caught.value.hint == "reland run"


def test_a_milvus_file_lies_in_the_project_and_an_address_stays(project):
    assert project.pool_uri == str(project.root / "pool" / "milvus.db")
    server = Project(project.root, parse({**CONFIG, "pool": {"uri": "http://milvus:19530"}}))
    assert server.pool_uri == "http://milvus:19530"
