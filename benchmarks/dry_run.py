"""Compare what `reland generate --dry-run` predicts with what the run takes, by its manifest, counters and report.

    python -m benchmarks.dry_run --tables DIR --name ml-1m --order-column pos

DIR as for `benchmarks.main_job`. A project whose seeds have rationales already is only read: to measure again, take
another --work. Writes docs/results/dry_run_<name>.md.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.projects import RESULTS, command_of, make_project, project_arguments, reland

AMOUNTS = ("calls", "prompt_tokens", "completion_tokens", "seconds")


def main() -> None:
    arguments = project_arguments(__doc__)
    project = make_project(arguments)
    if not list((project / ".reland" / "artifacts").glob("rationales/*/manifest.json")):
        reland(arguments, project, "generate", "--dry-run")
    done = reland(arguments, project, "run")
    generated = Path(done["stages"]["generate"]["artifact"])
    manifest = json.loads((generated / "manifest.json").read_text())
    text = render(arguments, manifest, counted(project), reported(Path(done["report"])))
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


def render(
    arguments: argparse.Namespace, manifest: dict[str, Any], counters: dict[str, float], report: dict[str, str]
) -> str:
    said, took = manifest["predicted"], manifest["usage"]["total"]
    lines = [
        f"# What a dry run predicts, and what the run takes: {arguments.name}",
        "",
        command_of("dry_run", arguments),
        "",
        f"Machine: {machine()}" + (f". {arguments.note}" if arguments.note else ""),
        "",
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
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
