"""`reland rationales`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reland_features.commands.options import Json, Overrides, ProjectDir, group, say

rationales = group("Files of rationales: from another system, and for a later run.")


@rationales.command("import")
def import_rationales(
    file: Annotated[Path, typer.Argument(help="Parquet or JSONL: user_id, text or steps, model.")],
    project: ProjectDir = Path(),
    model: Annotated[str | None, typer.Option(help="Who wrote the texts, where the file has no such column.")] = None,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="Leave out users not in the project.")] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Bring in rationales that another system wrote, instead of asking an LLM for them."""
    from reland_features.imported_texts import import_texts
    from reland_features.project import Project

    opened = Project.open(project, overrides or ())
    made = import_texts(opened, file, model=model, skip_unknown=skip_unknown)
    embed = opened.config.rationales.embed
    settings = made.settings(embed)
    texts, both, models = (made.facts[name] for name in ("texts", "with_step2", "models"))
    if as_json:
        facts = {"texts": texts, "with_step2": both, "models": models, "left_out": made.left_out}
        print(json.dumps({"import": made.id, **facts, "settings": settings}))
        return
    say(f"{texts:,} texts by {', '.join(models)}: {both:,} with both steps, {texts - both:,} with Step 1 only")
    if made.left_out:
        say(f"{made.left_out:,} rows were left out, of users that the project does not know")
    if settings["embed"] != embed:
        say(f"this project embeds {embed!r}, which texts with Step 1 only do not have: rankers must be trained anew")
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    say(f"\nin reland.toml:\n\n[rationales]\n{lines}\n\nthen: reland run")


@rationales.command("export")
def export_rationales(
    file: Annotated[Path, typer.Argument(help="Parquet or JSONL to write: user_id, steps, model.")],
    project: ProjectDir = Path(),
    pool: Annotated[str | None, typer.Option(help="A pool version; by default the published one.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write the rationales of a pool to a file that `import` reads: for runs that are to pay for no others."""
    from reland_features.finished_pool import FinishedPool
    from reland_features.project import Project
    from reland_features.rationale_file import write_rationale_file

    found = FinishedPool.find(Project.open(project, overrides or ()), pool)
    write_rationale_file(found.pool.frame, found.pool.ids["engine_id"], file)
    count, version = found.pool.frame.height, found.pool.pool_version
    if as_json:
        print(json.dumps({"pool_version": version, "texts": count, "file": str(file)}))
        return
    say(f"{count:,} rationales of pool {version} → {file}\nnext: reland rationales import {file} --skip-unknown")
