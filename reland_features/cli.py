"""The `reland` command: thin; every line of work is in the library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from reland_features.commands.ledger import ledger
from reland_features.commands.options import AsOf, Json, Overrides, ProjectDir
from reland_features.commands.options import say as _say
from reland_features.commands.pool import pool
from reland_features.commands.rationales import rationales
from reland_features.commands.seeds import seeds
from reland_features.commands.tune import tune
from reland_features.errors import RelandError
from reland_features.process import leave

app = typer.Typer(
    help="LLM recommendation rationales as Feast features: reason about a few seed users, serve every user.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(rationales, name="rationales")
app.add_typer(seeds, name="seeds")
app.add_typer(ledger, name="ledger")
app.add_typer(pool, name="pool")
app.command()(tune)


def main() -> None:
    """Run the command line; print a `RelandError` as a message, not as a traceback."""
    status = 0
    try:
        app()
    except SystemExit as stop:  # how typer ends, after usage errors too
        status = stop.code if isinstance(stop.code, int) else 0
    except RelandError as error:
        if "--json" in sys.argv:
            print(json.dumps(error.as_dict()))
        print(f"\nerror: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\ninterrupted; finished work is kept, the same command resumes", file=sys.stderr)
        status = 130
    leave(status)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The new project folder.")],
    interactions: Annotated[Path, typer.Option(help="Parquet or CSV: who interacted with what, and when.")],
    items: Annotated[Path, typer.Option(help="Parquet or CSV: items with titles and, best, categories.")],
    users: Annotated[Path | None, typer.Option(help="Parquet or CSV: users with profile columns.")] = None,
    user_id_column: Annotated[str | None, typer.Option()] = None,
    item_id_column: Annotated[str | None, typer.Option()] = None,
    time_column: Annotated[str | None, typer.Option(help="Time of an interaction.")] = None,
    order_column: Annotated[str | None, typer.Option(help="Position of an interaction within its user.")] = None,
    title_column: Annotated[str | None, typer.Option()] = None,
    categories_column: Annotated[str | None, typer.Option()] = None,
    brand_column: Annotated[str | None, typer.Option()] = None,
    description_column: Annotated[str | None, typer.Option()] = None,
    profile_columns: Annotated[str | None, typer.Option(help="User columns, separated by commas.")] = None,
    prompt: Annotated[str | None, typer.Option(help="movies, products, generic or a TOML file.")] = None,
    name: Annotated[str, typer.Option(help="Name of the project, lower case.")] = "reland",
    as_json: Json = False,
) -> None:
    """Make a project folder from your tables; common column names are recognised and shown."""
    from reland_features.init import make_project
    from reland_features.sources import common_separator, discover_columns

    sources = {"interactions": interactions, "items": items, **({"users": users} if users else {})}
    recognised = make_project(
        directory,
        sources,
        {
            "user_id": user_id_column,
            "item_id": item_id_column,
            "interacted_at": time_column,
            "order": order_column,
            "title": title_column,
            "categories": categories_column,
            "brand": brand_column,
            "description": description_column,
        },
        discover=discover_columns,
        separator=common_separator,
        profile=tuple(c.strip() for c in profile_columns.split(",")) if profile_columns else (),
        prompt=prompt,
        name=name,
    )
    if as_json:
        print(json.dumps({"project": str(directory), "columns": recognised.columns, "profile": recognised.profile}))
        return
    for table, roles in recognised.columns.items():
        _say(f"{table}: " + ", ".join(f"{role} = {column}" for role, column in roles.items()))
        if table == "users" and recognised.profile:
            _say(f"       profile = {', '.join(recognised.profile)}")
        if table == "items" and "categories" in roles and recognised.separator != "|":
            _say(f"       categories are separated by {recognised.separator!r}")
        if table == "items" and "categories" not in roles:
            _say("       no categories: rationales are better with some; name them with --categories-column")
        if recognised.unused[table]:
            _say(f"       not used: {', '.join(recognised.unused[table])}")
    _say(f"\nprompt: {prompt or recognised.prompt}; every setting: {directory}/reland.toml")
    _say(f"next: cd {directory} && reland run")


@app.command()
def check(project: ProjectDir = Path(), overrides: Overrides = None, as_json: Json = False) -> None:
    """Report every problem of the configuration and the tables at once."""
    from reland_features.check import check as find_problems
    from reland_features.errors import CheckError
    from reland_features.project import Project

    if problems := find_problems(Project.open(project, overrides or ())):
        raise CheckError(problems)
    print(json.dumps({"problems": []})) if as_json else _say("no problems found; next: reland run")


@app.command()
def config(
    project: ProjectDir = Path(),
    overrides: Overrides = None,
    dbt_vars: Annotated[bool, typer.Option("--dbt-vars", help="Print the vars for `dbt --vars` instead.")] = False,
) -> None:
    """Print every setting with its present value, as JSON."""
    from reland_features.project import Project

    opened = Project.open(project, overrides or ())
    if dbt_vars:
        from reland_features.prepare import dbt_vars as vars_of

        print(json.dumps(vars_of(opened.config, opened.root), default=str))
    else:
        print(opened.config.model_dump_json(indent=2))


def _open(project: Path, overrides: list[str] | None, as_of: str | None) -> Any:
    from reland_features.project import Project

    return Project.open(project, [*(overrides or ()), *([f"data.as_of={as_of}"] if as_of else [])])


def _run(
    project: Path,
    overrides: list[str] | None,
    as_of: str | None,
    as_json: bool,
    until: str,
    *,
    retry_failed: bool = False,
) -> Any:
    from reland_features.console import ConsoleListener, summary
    from reland_features.pipeline import run as run_pipeline

    with ConsoleListener() as listener:
        done = run_pipeline(_open(project, overrides, as_of), until, listener, retry_failed=retry_failed)
    if as_json:
        print(json.dumps(summary(done), default=str))
    return done


@app.command()
def run(project: ProjectDir = Path(), as_of: AsOf = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Do it all: tables → rationale features in Feast → report. Unchanged stages are not repeated."""
    done = _run(project, overrides, as_of, as_json, "report")
    if done.report:
        _say(f"\nreport: {done.report}")


@app.command()
def refresh(
    project: ProjectDir = Path(), as_of: AsOf = None, overrides: Overrides = None, as_json: Json = False
) -> None:
    """Match today's behaviour to the published pool and publish: no fit, no LLM, rankers stay as they are."""
    from reland_features.console import ConsoleListener, summary
    from reland_features.pipeline import refresh as refresh_features

    with ConsoleListener() as listener:
        done = refresh_features(_open(project, overrides, as_of), listener)
    if as_json:
        print(json.dumps(summary(done), default=str))
    if done.drift:
        _say(f"\n{done.drift.text()}")


@app.command()
def generate(
    project: ProjectDir = Path(),
    as_of: AsOf = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print calls, tokens, time and cost; no paid call is made.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again about seeds that failed or gave an unusable answer.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let the LLM write the seeds' rationales; answers in the ledger are not asked for again."""
    if not dry_run:
        _run(project, overrides, as_of, as_json, "generate", retry_failed=retry_failed)
        return
    from reland_features.dry_run import describe, plan_generation

    done = _run(project, overrides, as_of, False, "sample")
    opened = _open(project, overrides, as_of)
    with opened.lock():
        said = plan_generation(opened, done.outcomes, retry_failed=retry_failed)
    print(json.dumps(said) if as_json else describe(said))


def _stage(until: str, summary: str) -> Callable[..., None]:
    def command(
        project: ProjectDir = Path(), as_of: AsOf = None, overrides: Overrides = None, as_json: Json = False
    ) -> None:
        _run(project, overrides, as_of, as_json, until)

    command.__doc__ = summary
    return command


for _name, _until, _summary in (
    ("prepare", "prepare", "Run dbt: source tables → marts."),
    ("encode", "encode", "Fit the behaviour encoder: interactions → one vector per user."),
    ("sample", "sample", "Sample the seed users that the LLM will reason about."),
    ("match", "match", "Build the reasoning pool and match every user to its most similar seed."),
    ("publish", "feast", "Publish the features, apply the Feast repository and materialize it."),
):
    app.command(_name)(_stage(_until, _summary))


@app.command()
def explain(
    user_id: Annotated[str, typer.Argument(metavar="USER")],
    project: ProjectDir = Path(),
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show a user's history, the seed it was matched to, and the rationale it inherits."""
    from reland_features.explain import explain as explain_user
    from reland_features.project import Project

    explanation = explain_user(Project.open(project, overrides or ()), user_id)
    print(json.dumps(explanation.as_dict(), default=str) if as_json else explanation.text())


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where the demo project is made, or found again.")] = Path(
        "reland-demo"
    ),
    users: Annotated[int, typer.Option(min=30, help="Simulated users.")] = 400,
    dataset: Annotated[
        str, typer.Option(help="films (simulated users of real films) or ml-100k (download).")
    ] = "films",
    archive: Annotated[Path | None, typer.Option(help="ml-100k.zip that is already here.")] = None,
    as_json: Json = False,
) -> None:
    """Run the main job on built-in tables: real dbt, a real LLM, Milvus Lite and Feast."""
    from reland_features.demo_project import make_demo

    make_demo(directory, users=users, dataset=dataset, archive=archive)
    done = _run(directory, None, None, as_json, "report")
    _say(f"\nreport: {done.report}")
    _say(f"look at a user: reland explain {done.example_user()} --project {directory}")
