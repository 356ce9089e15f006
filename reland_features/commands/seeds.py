"""`reland seeds`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reland_features.commands.options import AsOf, Json, Overrides, ProjectDir, group, say

seeds = group("How many seed users to reason about, and how users without behaviour reach them.")


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


@seeds.command("cold-start")
def cold_start(
    project: ProjectDir = Path(),
    users: Annotated[int, typer.Option(min=2, help="Users whose history is hidden.")] = 500,
    keep_encoder: Annotated[
        bool, typer.Option("--keep-encoder", help="Do not fit the encoder again without the hidden histories.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write FILE.md.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Measure how well profiles choose seeds: hide users' histories, match them by profile, and look."""
    from reland_features.cold_start_evaluation import evaluate_cold_start
    from reland_features.project import Project

    opened = Project.open(project, overrides or ())
    found = evaluate_cold_start(opened, users=users, encode_again=not keep_encoder)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(f"# Cold start: {opened.config.name}\n\n{found.text()}\n")
    print(json.dumps(found.as_dict()) if as_json else found.text())
