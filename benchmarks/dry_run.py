"""Compare what `reland generate --dry-run` predicts with what the run takes, by its manifest, counters and report.

    python -m benchmarks.dry_run --tables DIR --name ml-1m --order-column pos

DIR as for `benchmarks.main_job`. A project whose seeds have rationales already is only read: to measure again, take
another --work. Writes docs/results/dry_run_<name>.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.projects import RESULTS, heading, make_project, project_arguments, reland

AMOUNTS = ("calls", "prompt_tokens", "completion_tokens", "seconds")


def main() -> None:
    arguments = project_arguments(__doc__)
    project = make_project(arguments)
    if not list((project / ".reland" / "artifacts").glob("rationales/*/manifest.json")):
        reland(arguments, project, "generate", "--dry-run")
    done = reland(arguments, project, "run")
    generated = Path(done["stages"]["generate"]["artifact"])
    manifest = json.loads((generated / "manifest.json").read_text())
    text = render(arguments, manifest, counted(project), reported(Path(done["report"])), spread(project, (1, 3, 6)))
    (RESULTS / f"dry_run_{arguments.name}.md").write_text(text)
    print(text)


def counted(project: Path) -> dict[str, float]:
    """Read the Prometheus counters, which count every call of the project's ledger."""
    found: dict[str, float] = {}
    for line in (project / ".reland" / "metrics.prom").read_text().splitlines():
        if match := re.match(r"reland_llm_(calls|tokens|seconds)_total\{(.*)\} (\S+)$", line):
            kind = re.search(r'kind="(\w+)"', match[2])
            found[f"{kind[1]}_tokens" if kind else match[1]] = float(match[3])
    return found


def reported(report: Path) -> dict[str, str]:
    """Read what the report says was taken, below "What the dry run had predicted"."""
    table = report.read_text().split("What the dry run had predicted", 1)[1].split("</table>", 1)[0]
    rows = re.findall(r'<th scope="row">(.*?)</th><td class="n">.*?</td><td class="n">(.*?)</td>', table)
    return {name.lower().replace(" ", "_"): taken for name, taken in rows}


def spread(project: Path, batches: Sequence[int], draws: int = 10_000) -> dict[int, float]:
    """Say how far off (95 % quantile) a time is that so many batches of this run predict, drawn at random."""
    query = "select sum(seconds), sum(prompt_tokens) from attempts group by started_at order by started_at"
    with closing(sqlite3.connect(project / ".reland" / "ledger.sqlite")) as ledger:
        seconds, tokens = np.array(ledger.execute(query).fetchall()[1:]).T  # the first one loaded the model
    rate, generator = seconds.sum() / tokens.sum(), np.random.default_rng(0)
    drawn = [generator.integers(len(seconds), size=(draws, count)) for count in batches]
    found = [np.abs(seconds[rows].sum(1) / tokens[rows].sum(1) / rate - 1) for rows in drawn]
    return {count: float(np.quantile(errors, 0.95)) for count, errors in zip(batches, found, strict=True)}


def render(
    arguments: argparse.Namespace,
    manifest: dict[str, Any],
    counters: dict[str, float],
    report: dict[str, str],
    off: dict[int, float],
) -> str:
    said, took = manifest["predicted"], manifest["usage"]["total"]
    lines = [
        *heading(f"What a dry run predicts, and what the run takes: {arguments.name}", "dry_run", arguments),
        f"{said['requests']:,} requests; estimated from {said['basis']}; {manifest['engine_id']}.",
        "",
        "| | predicted | at most | taken (manifest) | off by | counters | report |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in AMOUNTS:
        expected, limit = said["total"][name], said["at_most"].get(name)
        bound = f"{limit:,.0f}" if limit is not None else ""
        lines.append(
            f"| {name.replace('_', ' ')} | {expected:,.0f} | {bound} | {took[name]:,.0f} "
            f"| {took[name] / expected - 1:+.1%} | {counters[name]:,.0f} | {report.get(name, '')} |"
        )
    lines += [
        "",
        "Seconds are those of calls, without loading the model for anything else. Predicted and taken hold the probe's",
        "calls too, which the run found in the ledger; `at most` is what was left to ask.",
        "",
        "Batches of this run differ in their seconds per prompt token. Drawn at random, they would predict its time "
        "within "
        + ", ".join(f"{error:.0%} ({count} timed)" for count, error in off.items())
        + " in 95 % of the draws.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
