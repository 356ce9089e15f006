"""Time `reland demo` from nothing and again: `python -m benchmarks.demo`. Writes docs/results/demo.txt."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine

RESULT = Path(__file__).parents[1] / "docs" / "results" / "demo.txt"


def main() -> None:
    lines = [f"machine: {machine()}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "reland_features", "demo", f"{folder}/reland-demo"]
        for run in ("first", "second"):
            started = time.perf_counter()
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
            lines += ["", f"$ reland demo    # {run} run, {time.perf_counter() - started:.0f} s"]
            lines += done.stderr.replace(f"{folder}/", "").strip().splitlines()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
