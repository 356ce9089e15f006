"""Time the main job on a folder of real tables and print what it gave a ranker.

    python -m benchmarks.main_job --tables DIR --name ml-1m --order-column pos
    python -m benchmarks.main_job --tables DIR --name beauty --order-column pos --set seeds.fraction=0.02

DIR holds interactions.parquet, items.parquet and, where there are any, users.parquet. The project is made
in --work and kept: a second call resumes it. Writes docs/results/main_job_<name>.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import machine
from ranking.evaluate import table as ranking_table

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    arguments = _arguments()
    project = arguments.work / arguments.name
    reland = [sys.executable, "-m", "reland_features"]
    if not (project / "reland.toml").is_file():
        tables = {name: arguments.tables / f"{name}.parquet" for name in ("interactions", "items", "users")}
        options = [part for name, path in tables.items() if path.is_file() for part in (f"--{name}", str(path))]
        order = ["--order-column", arguments.order_column] if arguments.order_column else []
        subprocess.run([*reland, "init", str(project), *options, *order], check=True)
    overrides = [part for setting in arguments.set for part in ("--set", setting)]
    done = subprocess.run(
        [*reland, "run", "--project", str(project), "--json", *overrides], check=True, stdout=subprocess.PIPE, text=True
    )
    summary = json.loads(done.stdout)
    metrics = json.loads((Path(summary["stages"]["evaluate"]["artifact"]) / "metrics.json").read_text())
    text = render(arguments, summary, metrics)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"main_job_{arguments.name}.md").write_text(text)
    print(text)


def render(arguments: argparse.Namespace, summary: dict, metrics: dict) -> str:
    settings = "".join(f" --set {s}" for s in arguments.set)
    order = f" --order-column {arguments.order_column}" if arguments.order_column else ""
    lines = [
        f"# The main job on {arguments.name}",
        "",
        f"`python -m benchmarks.main_job --tables DIR --name {arguments.name}{order}{settings}`",
        "",
        f"Machine: {machine()}" + (f". {arguments.note}" if arguments.note else ""),
        "",
        "| stage | rows in | rows out | seconds |",
        "| --- | ---: | ---: | ---: |",
    ]
    total = 0.0
    for name, stage in summary["stages"].items():
        total += stage["seconds"]
        lines.append(f"| {name} | {stage['rows_in']:,} | {stage['rows_out']:,} | {stage['seconds']:,.1f} |")
    usage = summary["stages"]["generate"]["usage"]
    used = usage["total"]
    lines += [
        f"| all | | | {total:,.1f} |",
        "",
        f"LLM: {used['calls']:,} calls, {used['failed']} failed, {used['prompt_tokens']:,} prompt tokens, "
        f"{used['completion_tokens']:,} completion tokens, {used['seconds']:,.0f} s.",
        "",
        "What a ranker gains (`python -m ranking.evaluate`):",
        "",
        "```",
        ranking_table(metrics),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--order-column")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    return parser.parse_args()


if __name__ == "__main__":
    main()
