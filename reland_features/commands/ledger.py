"""`reland ledger`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from reland_features.commands.options import Json, Overrides, ProjectDir, group, say

ledger = group("Every LLM call of the project: what was asked, what came of it, what it cost.")


@ledger.command()
def show(
    project: ProjectDir = Path(),
    seed: Annotated[str | None, typer.Option(metavar="USER", help="The attempts of one seed, with texts.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print totals by engine, prompt and status, or all attempts of one seed user."""
    from reland_features.ledger_view import attempts, totals
    from reland_features.project import Project

    frame = attempts(Project.open(project, overrides or ()), seed)
    if as_json:
        print(json.dumps((totals(frame) if seed is None else frame).to_dicts()))
        return
    if seed is not None:
        for row in frame.iter_rows(named=True):
            said = row["text"].strip() or row["error"]
            reason = f" ({row['reason']})" if row["status"] == "invalid" else ""
            tokens = f"{row['prompt_tokens']:,} + {row['completion_tokens']:,} tokens, {row['seconds']:.1f} s"
            asked_for = "" if row["seed_user_id"] == seed else f" (asked for {row['seed_user_id']}: the same prompt)"
            print(f"#{row['attempt']} {row['started_at'][:19]} {row['engine_id']} {row['prompt_id']}{asked_for}")
            print(f"{row['status']}{reason}, {tokens}\n{said}\n")
        say(f"{frame.height:,} attempts for seed user {seed}")
        return
    for row in totals(frame).iter_rows(named=True):
        cost = "" if row["cost"] is None else f"{row['cost']:>12,.4f}"
        tokens = f"{row['prompt_tokens']:>13,}{row['completion_tokens']:>13,} tokens{row['seconds']:>11,.1f} s"
        print(
            f"{row['engine_id']}  {row['prompt_id']}\n  {row['status']:<8}{row['attempts']:>9,} attempts{tokens}{cost}"
        )
    say(f"{frame.height:,} attempts; texts of one seed: reland ledger show --seed USER")


@ledger.command()
def export(
    file: Annotated[Path, typer.Argument(help="A .parquet or .jsonl file.")],
    project: ProjectDir = Path(),
    overrides: Overrides = None,
) -> None:
    """Write every attempt, texts and statuses included, to a file."""
    from reland_features.ledger_view import export as write
    from reland_features.project import Project

    say(f"{write(Project.open(project, overrides or ()), file):,} attempts → {file}")


@ledger.command()
def prune(
    project: ProjectDir = Path(),
    failed: Annotated[bool, typer.Option("--failed", help="Only attempts that got no answer.")] = False,
    unused: Annotated[bool, typer.Option("--unused", help="Only engines and prompts not configured now.")] = False,
    before: Annotated[datetime | None, typer.Option(help="Only attempts before this instant (UTC).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what the current pool was made from.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is deleted.")] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Delete attempts that are no longer needed: failed ones and unused ones, or with --before alone all older ones."""
    from dataclasses import asdict

    from reland_features.ledger_view import prune as delete_attempts
    from reland_features.project import Project
    from reland_features.stages import llm_engine

    opened = Project.open(project, overrides or ())
    kinds = [name for name, wanted in (("failed", failed), ("unused", unused)) if wanted]
    if not kinds and before is None:
        kinds = ["failed", "unused"]
    engine = llm_engine(opened)
    engine.close()
    done = delete_attempts(opened, engine_id=engine.engine_id, kinds=kinds, before=before, delete=yes, force=force)
    if as_json:
        print(json.dumps(asdict(done) | {"rows": done.rows}))
        return
    say(f"{done.rows:,} attempts: {done.failed:,} failed, {done.unused:,} unused, {done.other:,} others")
    if done.protected:
        say(f"{done.protected:,} more are kept, the current pool was made from them (--force deletes them too)")
    say("deleted" if yes else "nothing was deleted; add --yes")
