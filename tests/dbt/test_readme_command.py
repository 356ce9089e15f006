"""The README's dbt command works in a new project as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl

from reland_features.demo.simulator import simulate, write_world
from reland_features.init import make_project
from reland_features.sources import discover_columns

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_s_dbt_command_builds_the_marts_of_a_new_project(tmp_path):
    (command,) = re.findall(r"^mkdir .* && dbt build .*$", README.read_text(), flags=re.MULTILINE)
    tables = write_world(tmp_path / "tables", simulate(users=50, seed=3))
    make_project(tmp_path / "shop", tables, {}, discover=discover_columns)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path / "shop", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    marts = tmp_path / "shop" / "target" / "marts"
    assert pl.read_parquet(marts / "interactions.parquet").height > 0
    assert {path.stem for path in marts.glob("*.parquet")} >= {"interactions", "items", "users", "user_histories"}
