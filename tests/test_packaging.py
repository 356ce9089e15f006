"""The wheel carries what `reland init` needs, and the project states what it promises."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_templates_prompts_films_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "reland_features/_templates/dbt/dbt_project.yml",
        "reland_features/_templates/feature_repo/feature_store.yaml",
        "reland_features/_templates/feature_repo/feature_definitions.py",
        "reland_features/prompts/movies.toml",
        "reland_features/demo/films.csv",
        "reland_features/report/template.html.j2",
        "reland_features/py.typed",
        "ranking/serve.py",
    ):
        assert wanted in names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/")) or "/target/" in n or n.endswith(".db")]


def test_a_project_can_be_made_from_the_unpacked_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from pathlib import Path; from reland_features import templates\n"
        "assert 'site' in templates.__file__\n"
        f"templates.copy('dbt', Path({str(tmp_path / 'D')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "D" / "models" / "marts").is_dir()


def test_every_pin_satisfies_the_stated_dependencies():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {
        name.lower().replace("_", "-"): version
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
        for name, version in [line.split("==")]
    }
    stated = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    # vllm is built for one torch and brings it along, so it goes into an environment of its own, without our pins.
    for requirement in map(Requirement, stated):
        if requirement.name not in ("reland-features", "vllm"):
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
