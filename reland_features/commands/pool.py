"""`reland pool`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reland_features.commands.options import Json, Overrides, ProjectDir, author_or_user, group, say

if TYPE_CHECKING:
    from reland_features.curation import Decision
    from reland_features.curation.words import Words
    from reland_features.finished_pool import FinishedPool
    from reland_features.project import Project
    from reland_features.prompts import PromptTemplate
    from reland_features.quality import Measured

pool = group("Inspect the reasoning pool, and correct single rationales.")

Seed = Annotated[str, typer.Argument(metavar="SEED", help="A seed user: reland pool review, or reland explain USER.")]
Author = Annotated[str | None, typer.Option(help="Who decides.", show_default="the user of this computer")]
Reason = Annotated[str, typer.Option(help="Why; kept with the decision.")]
Version = Annotated[
    str | None,
    typer.Option("--pool", help="A version, a folder, or PROJECT@version.", show_default="the published one"),
]


@pool.command()
def review(
    project: ProjectDir = Path(),
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Findings printed.")] = 40,
    version: Version = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """List suspicious rationales, the most suspicious first: seed, rule and evidence."""
    from dataclasses import asdict

    from reland_features.review import review as run_rules

    opened, finished = _open(project, overrides, version)
    template = _template(opened, finished)
    found = run_rules(finished, template, opened.config.review, base=opened.root, only=rule or ())
    shown = found.findings[:limit]
    if as_json:
        facts = {"pool_version": found.pool_version, "rationales": found.rationales, "suspicious": found.suspicious}
        print(json.dumps({**facts, "rules": found.counts, "findings": [asdict(finding) for finding in shown]}))
        return
    say(f"pool {found.pool_version}: {found.suspicious:,} of {found.rationales:,} rationales are suspicious")
    say("".join(f"  {name:<20}{count:>7,} rationales\n" for name, count in found.counts.items()))
    for finding in shown:
        seed = finding.seeds[0] if len(finding.seeds) == 1 else f"{finding.seeds[0]} +{len(finding.seeds) - 1:,}"
        print(f"{finding.severity:.2f}  {seed:<20} {finding.rule:<20} {finding.evidence}")
    if len(found.findings) > limit:
        say(f"\n{len(found.findings) - limit:,} more: --limit N, --rule NAME, --json")


@pool.command()
def block(
    seed: Seed,
    reason: Annotated[str, typer.Option(help="Why; kept with the decision.")],
    project: ProjectDir = Path(),
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Take a rationale out of service: its users, and the seed itself, fall to the next most similar seed."""
    _say_decision(project, _desk(project).block(seed, author_or_user(author), reason), as_json)


@pool.command()
def unblock(
    seed: Seed, project: ProjectDir = Path(), reason: Reason = "", author: Author = None, as_json: Json = False
) -> None:
    """Put a blocked rationale back into service."""
    _say_decision(project, _desk(project).unblock(seed, author_or_user(author), reason), as_json)


@pool.command()
def edit(
    seed: Seed,
    project: ProjectDir = Path(),
    summary: Annotated[str | None, typer.Option(help="Step 1, one sentence.")] = None,
    categories: Annotated[list[str] | None, typer.Option(help="A category; repeat it for each.")] = None,
    items: Annotated[list[str] | None, typer.Option(help="A title; repeat it for each.")] = None,
    file: Annotated[Path | None, typer.Option(help="TOML or JSON with summary, categories, items.")] = None,
    reason: Reason = "",
    author: Author = None,
    force: Annotated[bool, typer.Option("--force", help="Take names that the catalogue does not know.")] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Give a rationale new words; without any, open an editor. What is not given stays as it is."""
    from reland_features.curation.words import edited, from_file, from_text, to_text

    decided_by = author_or_user(author)  # before an editor opens: what is written there would be lost
    desk = _desk(project, overrides)
    present: Words = desk.words(seed)
    words: Words | None
    if file:
        words = from_file(file, present)
    elif summary is None and not categories and not items:
        import click

        text = click.edit(to_text(present), extension=".toml")
        words = from_text(text, present, where="the editor") if text is not None else None
    else:
        words = edited(present, summary, categories or None, items or None)  # no option may be []
    if words is None or words == present:
        say("nothing was changed")
        return
    _say_decision(project, desk.edit(seed, words, decided_by, reason, force=force), as_json)


@pool.command()
def regenerate(
    seed: Seed,
    project: ProjectDir = Path(),
    feedback: Annotated[str, typer.Option(help="What is wrong with the answer; the LLM is told.")] = "",
    author: Author = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Ask the LLM once more, one call within the budget; an unusable answer changes nothing."""
    from reland_features.curation.regenerating import regenerate as ask_again

    made = ask_again(_desk(project, overrides), seed, author_or_user(author), feedback)
    if made.decision is None:
        if as_json:
            print(json.dumps({"decision": None, "reason": made.reason, "calls": made.calls}))
        else:
            say(f"the new answer cannot be used, so the old one stays: {made.reason}")
        raise typer.Exit(1)
    _say_decision(project, made.decision, as_json)


@pool.command()
def restore(
    seed: Seed, project: ProjectDir = Path(), reason: Reason = "", author: Author = None, as_json: Json = False
) -> None:
    """Take an edit or a second answer back: the LLM's first answer is in force again."""
    _say_decision(project, _desk(project).restore(seed, author_or_user(author), reason), as_json)


@pool.command()
def decisions(project: ProjectDir = Path(), as_json: Json = False) -> None:
    """List everything that was decided about single rationales: when, who, what and why."""
    from dataclasses import asdict

    from reland_features.curation import DECISIONS, read_decisions
    from reland_features.project import Project

    log = read_decisions(Project.open(project).state / DECISIONS)
    if as_json:
        print(json.dumps({"decisions": [asdict(decision) for decision in log]}))
        return
    for decision in log:
        print(f"{decision.decided_at[:19]}  {decision.author:<12} {decision.action:<11} {_what(decision)}")


@pool.command()
def quality(
    project: ProjectDir = Path(), version: Version = None, overrides: Overrides = None, as_json: Json = False
) -> None:
    """Measure the rationales without a ranker, beside a constant and a shuffled baseline."""
    from reland_features.quality import assess
    from reland_features.quality.tables import quality_table

    opened, finished = _open(project, overrides, version)
    found = assess(_measured(opened, finished), opened.config.seed)
    print(json.dumps(found.as_dict()) if as_json else quality_table(found))


@pool.command()
def diff(
    a: Annotated[str, typer.Argument(help="A pool version, a pool's folder, or PROJECT@version.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    project: ProjectDir = Path(),
    limit: Annotated[int, typer.Option(min=0, help="Changed rationales printed.")] = 20,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Compare two pools: rationales added, removed, blocked or changed, and the measures side by side."""
    from reland_features.quality.comparison import compare
    from reland_features.quality.tables import comparison_table

    opened, first = _open(project, overrides, a)
    _, second = _open(project, overrides, b)
    found = compare(first, second, (_measured(opened, first), _measured(opened, second)), opened.config.seed)
    print(json.dumps(found.as_dict()) if as_json else comparison_table(found, limit))


def _open(project: Path, overrides: list[str] | None, version: str | None) -> tuple[Project, FinishedPool]:
    from reland_features.finished_pool import FinishedPool
    from reland_features.project import Project

    opened = Project.open(project, overrides or ())
    return opened, FinishedPool.find(opened, version)


def _measured(project: Project, finished: FinishedPool) -> Measured:
    from reland_features.quality import measure

    return measure(finished, finished.written(_template(project, finished)), project.config.seed)


def _template(project: Project, finished: FinishedPool) -> PromptTemplate:
    """Return today's template; say so where it does not read the answers of a pool that another one asked for."""
    from reland_features.prompts import PromptTemplate

    template = PromptTemplate.of(project.config.rationales, base=project.root)
    if not finished.is_read_by(template):
        prompt = finished.pool.ids["prompt_id"]
        say(
            f"pool {finished.pool.pool_version} was asked for with prompt {prompt}; {template.prompt_id} of this "
            "project does not read its answers, so what they name is neither measured nor looked for\n"
            "next: --set rationales.prompt=PATH, of the prompt of that pool"
        )
    return template


def _desk(project: Path, overrides: list[str] | None = None) -> Any:
    from reland_features.curation.editing import Desk
    from reland_features.project import Project

    return Desk.of(Project.open(project, overrides or ()))


def _say_decision(project: Path, decision: Decision, as_json: bool) -> None:
    from dataclasses import asdict

    from reland_features.lineage import to_publish
    from reland_features.project import Project

    if as_json:
        print(json.dumps({"decision": asdict(decision)}))
        return
    say(f"{decision.author} decided: {decision.action} {_what(decision)}")
    say(f"it holds from the next publish on: {to_publish(Project.open(project))}")


def _what(decision: Decision) -> str:
    words = " | ".join(filter(None, [decision.summary, ", ".join(decision.categories), "; ".join(decision.items)]))
    return " ".join(filter(None, [decision.seed_user_id, decision.reason and f"({decision.reason})", words]))
