"""`reland seeds`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reland_features.commands.options import AsOf, Json, Overrides, ProjectDir, group, say

seeds = group("How many seed users to reason about, and how users without behaviour reach them.")

Output = Annotated[Path | None, typer.Option(help="Write a markdown file too.")]


@seeds.command()
def plan(
    project: ProjectDir = Path(),
    as_of: AsOf = None,
    draws: Annotated[int, typer.Option(min=1, help="Samples per number of seeds.")] = 3,
    covered_at: Annotated[float, typer.Option(min=-1, max=1, help="Cosine from which a user is covered.")] = 0.8,
    min_marginal: Annotated[
        float | None,
        typer.Option(help="Stop where 100 more seeds add less mean similarity.", show_default="the knee of the curve"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write FILE.md, and the figure beside it as PNG.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show similarity, coverage and value per token against the number of seeds; no LLM is called."""
    from reland_features.console import ConsoleListener
    from reland_features.pipeline import run
    from reland_features.project import Project
    from reland_features.seed_plan import draw_curve, plan_seeds

    opened = Project.open(project, [*(overrides or ()), *([f"data.as_of={as_of}"] if as_of else [])])
    with ConsoleListener() as listener:
        outcomes = run(opened, "encode", listener).outcomes
    planned = plan_seeds(opened, outcomes, draws=draws, covered_at=covered_at, min_marginal=min_marginal)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw_curve(planned, output.with_suffix(".png"))
        title = f"# Number of seed users: {opened.config.name}\n\n"
        output.write_text(f"{title}{planned.text()}\n\n![Curve]({output.with_suffix('.png').name})\n")
    print(json.dumps(planned.as_dict()) if as_json else planned.text())
    advice = planned.advice
    say(f"\nin reland.toml:\n\n[seeds]\ncount = {advice.seeds}\n\nthen: reland run")
