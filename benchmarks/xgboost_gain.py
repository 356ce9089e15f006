"""Measure what rationales add to XGBoost, on projects that are there, and write one page.

    python -m benchmarks.xgboost_gain --projects experiments beauty/sequential ml-1m/sequential-strong

The projects are those of `python -m ranking.experiments prepare`. What `python -m ranking.evaluate` gives for each
is kept beside the page, as xgboost/<dataset>_<project>_<users>.json; the same command takes what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.projects import RESULTS
from ranking.evaluate import table

FOLDER = "xgboost"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects_to_measure", nargs="+", metavar="DATASET/PROJECT")
    parser.add_argument("--max-users", type=int, default=0, metavar="N", help="sample of users; 0 is everyone")
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    parser.add_argument("--projects", type=Path, default=Path("experiments"), metavar="ROOT")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    measured = {
        name: measure(arguments.projects / name, arguments.results, arguments.max_users)
        for name in arguments.projects_to_measure
    }
    text = render(measured, arguments.max_users, arguments.note)
    (arguments.results / "xgboost.md").write_text(text)
    print(text)


def measure(project: Path, results: Path, max_users: int) -> dict:
    """Evaluate a project unless that was done before; return its metrics."""
    output = results / FOLDER / f"{project.parent.name}_{project.name}_{max_users or 'all'}.json"
    if not output.is_file():
        command = [sys.executable, "-m", "ranking.evaluate", "--project", str(project), "--max-users", str(max_users)]
        subprocess.run([*command, "--output", str(output)], check=True)
    return json.loads(output.read_text())


def render(measured: dict[str, dict], max_users: int, note: str) -> str:
    """Return the page."""
    sample = f" --max-users {max_users}" if max_users else ""
    lines = [
        "# What rationales add to XGBoost",
        "",
        f"`python -m benchmarks.xgboost_gain --projects DIR{sample} {' '.join(measured)}`",
        "",
        f"Machine: {machine()}" + (f". {note}" if note else ""),
        "",
        "XGBoost (`rank:ndcg`) on features from Feast, one training seed, stopped early on every tenth training query. "
        "It knows users and items by popularity, activity and the history's share of the item's categories, and no "
        "more; with rationales, by the cosine of rationale and item text, similarity, cluster and leading principal "
        "components too. *Shuffled* are the rationales of other users, *constant* is that of one user for everybody; "
        "the *match without a text* has similarity and cluster alone. The *mean item text*, of the user's history, "
        "and the *seed's mean text*, of the matched seed's, stand in the rationale's place; no LLM wrote them. "
        "*+ mean text* has the former beside something else. "
        "Intervals are over users.",
    ]
    for name, metrics in measured.items():
        rounds = ", ".join(f"{metrics['trees'][ranker['name']]} ({ranker['name']})" for ranker in metrics["rankers"])
        lines += ["", f"## {name}", "", "```", table(metrics), "```", "", f"Trees: {rounds}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
