"""Time the main job on a folder of real tables and print what it gave a ranker.

    python -m benchmarks.main_job --tables DIR --name ml-1m --order-column pos
    python -m benchmarks.main_job --tables DIR --name beauty --order-column pos --set seeds.fraction=0.02

DIR holds interactions.parquet, items.parquet and, where there are any, users.parquet. The project is made
in --work and kept: a second call resumes it. Writes docs/results/main_job_<name>.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.projects import RESULTS, heading, make_project, project_arguments, reland
from ranking.evaluate import table as ranking_table


def main() -> None:
    arguments = project_arguments(__doc__)
    project = make_project(arguments)
    summary = reland(arguments, project, "run")
    metrics = json.loads((Path(summary["stages"]["evaluate"]["artifact"]) / "metrics.json").read_text())
    text = render(arguments, summary, metrics)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"main_job_{arguments.name}.md").write_text(text)
    print(text)


def render(arguments: argparse.Namespace, summary: dict, metrics: dict) -> str:
    lines = [
        *heading(f"The main job on {arguments.name}", "main_job", arguments),
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


if __name__ == "__main__":
    main()
