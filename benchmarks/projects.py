"""Projects made from a folder of real tables, for the benchmarks that run `reland` on one."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

RELAND = [sys.executable, "-m", "reland_features"]
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def project_arguments(description: str | None) -> argparse.Namespace:
    """Read which tables, where the project is kept, and settings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--order-column")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    return parser.parse_args()


def make_project(arguments: argparse.Namespace) -> Path:
    """Return the project's folder; made with `reland init` unless it is there."""
    project: Path = arguments.work / arguments.name
    if not (project / "reland.toml").is_file():
        tables = {name: arguments.tables / f"{name}.parquet" for name in ("interactions", "items", "users")}
        options = [part for name, path in tables.items() if path.is_file() for part in (f"--{name}", str(path))]
        order = ["--order-column", arguments.order_column] if arguments.order_column else []
        subprocess.run([*RELAND, "init", str(project), *options, *order], check=True)
    return project


def reland(arguments: argparse.Namespace, project: Path, *command: str) -> dict[str, Any]:
    """Run a `reland` command on a project, with the settings asked for, and return the JSON that it prints."""
    overrides = [part for setting in arguments.set for part in ("--set", setting)]
    done = subprocess.run(
        [*RELAND, *command, "--project", str(project), "--json", *overrides],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def heading(title: str, module: str, arguments: argparse.Namespace) -> list[str]:
    """Return the first lines of a result: what it is, the command line without this machine's folders, the machine."""
    settings = "".join(f" --set {setting}" for setting in arguments.set)
    order = f" --order-column {arguments.order_column}" if arguments.order_column else ""
    command = f"`python -m benchmarks.{module} --tables DIR --name {arguments.name}{order}{settings}`"
    note = f". {arguments.note}" if arguments.note else ""
    return [f"# {title}", "", command, "", f"Machine: {machine()}{note}", ""]
