"""`python -m benchmarks` (or `make bench`): the figures of the README that need no tables of yours.

The other ones need real tables and name their command in docs/results/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.machine import machine

COMMANDS = (("benchmarks.demo",), ("benchmarks.scale", "--users", "200000"))


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__).parse_args()
    print(f"machine: {machine()}")
    for command in COMMANDS:
        print(f"\n$ python -m {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
