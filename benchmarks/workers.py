"""The other side of a comparison: an environment of its own, and a process that is asked and answers in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reland_features.errors import RelandError


def make_environment(folder: Path, requirements: Sequence[str], build: Mapping[str, str] | None = None) -> None:
    """Make a virtual environment, unless it is there with these requirements.

    Parameters
    ----------
    build : mapping of str to str, optional
        Variables for what pip compiles.

    Raises
    ------
    subprocess.CalledProcessError
        pip could not install them; the next call begins anew.
    """
    done = folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if done.is_file() and done.read_text() == wanted:
        return
    print(f"{folder}: installing {requirements[0]} (minutes, more where it is compiled)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", *requirements]
    subprocess.run(pip, check=True, env={**os.environ, **(build or {})})
    done.write_text(wanted)  # last: a killed install is done again


def ask(command: Sequence[str], request: Mapping[str, Any], folder: Path, threads: int) -> list[dict[str, Any]]:
    """Run a worker in a folder, with so many threads, and its request on stdin; return the JSON lines it printed.

    Raises
    ------
    RelandError
        It did not finish; what it said stands on stderr.
    """
    limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        command,
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **limits, "OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
    )
    if done.returncode:
        raise RelandError(
            "a worker did not finish", where=" ".join(command), got=f"status {done.returncode}", hint="see above"
        )
    return [json.loads(line) for line in done.stdout.splitlines()]
