"""Time the scale generator: ``python -m benchmarks.scale --users 1000000``.

Writes source tables of any size and prints rows, seconds, peak memory and the machine. Other benchmarks read
what it leaves in --output; without it the tables go to a temporary folder and are removed.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from reland_features.demo.simulator import simulate_to_parquet


def main() -> None:
    arguments = _arguments()
    if arguments.output is not None:
        figures = measure(arguments.output, arguments)
    else:
        with tempfile.TemporaryDirectory(prefix="reland-scale-") as folder:
            figures = measure(Path(folder), arguments)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(
        f"{figures['users']:,} users × {figures['items']:,} items: {figures['interactions']:,} interactions in "
        f"{figures['seconds']:.1f} s ({figures['interactions'] / figures['seconds']:,.0f} a second), "
        f"{figures['megabytes']:,.0f} MB of parquet, peak memory {figures['peak_rss_mib']:,.0f} MiB"
    )
    print(figures["machine"])


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Generate the tables below `folder` and return what it took."""
    begun = time.perf_counter()
    rows = simulate_to_parquet(folder, arguments.users, arguments.items, seed=arguments.seed, ids=arguments.ids)
    seconds = time.perf_counter() - begun
    return {
        "users": arguments.users,
        "items": arguments.items,
        "interactions": rows,
        "seconds": round(seconds, 2),
        "megabytes": round(sum(f.stat().st_size for f in folder.rglob("*.parquet")) / 1e6, 1),
        "peak_rss_mib": round(_peak_rss_mib(), 1),
        "machine": machine(),
    }


def _peak_rss_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=10_000, help="made-up films")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ids", choices=("str", "int"), default="str")
    parser.add_argument("--output", type=Path, help="keep the tables in this folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    main()
