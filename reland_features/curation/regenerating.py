"""Ask the LLM once more about a single seed: one call, through the ledger and within the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import polars as pl

from reland_features.budget import excess, longest
from reland_features.curation.decisions import DECISIONS, Decision, read_decisions
from reland_features.curation.editing import Desk
from reland_features.curation.words import Words
from reland_features.engines.base import Engine, Message, most_tokens
from reland_features.errors import BudgetExceededError, PoolError
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rounds import Rounds
from reland_features.seed_requests import Ask, Plan, plan_requests, request_keys
from reland_features.seed_tables import SeedTables
from reland_features.stages import llm_engine
from reland_features.usage import Usage


@dataclass(frozen=True)
class Regenerated:
    """What came of asking again: a decision with the new words, or None and why the old ones stay."""

    decision: Decision | None
    reason: str
    calls: int


def regenerate(desk: Desk, seed: str, author: str, feedback: str = "") -> Regenerated:
    """Ask the LLM again about a seed; an answer that cannot be used leaves the old rationale as it is.

    The request is a new attempt with a ledger key of its own. An answer that was paid for but not recorded as a
    decision, because the process was killed in between, is taken without another call.

    Parameters
    ----------
    feedback : str
        What is wrong with the present answer. It is told to the LLM below that answer. An engine that would answer
        the same again (temperature 0, or a fixed seed) needs it.

    Raises
    ------
    PoolError
        The seed's texts were imported, no request can be made for it, or the engine would answer the same.
    BudgetExceededError
        The call might pass the budget.
    """
    project = desk.project
    settings = project.config.rationales
    row = desk.generated(seed)
    if settings.engine == "imported":
        raise PoolError("imported texts have no LLM to ask", where=seed, hint="reland pool edit, or import others")
    template = PromptTemplate.of(settings, base=project.root)
    engine = llm_engine(project)
    try:
        with project.lock(), Ledger(project.ledger) as ledger:
            plan = _plan(desk, seed, template, engine)
            earlier = _earlier_answer(desk, seed, row)
            decided = {d.ledger_key for d in read_decisions(project.state / DECISIONS)}
            for ask in _attempts(plan, seed, engine, earlier, feedback):
                if decided.intersection(ask.keys) or row["ledger_key"] in ask.keys:
                    continue
                is_paid = bool(ledger.answers(ask.keys))
                if not is_paid:
                    _check_budget(desk, ask, ledger)
                root = replace(plan, roots=(ask,), root_of={seed: ask.key})
                run = Rounds(root, template, engine, ledger, settings.model_copy(update=_ONE_CALL), _silent)
                run.ask_all()
                answer = run.row(seed)
                note = partial(desk.record, replaces=row["ledger_key"], text=answer["text"] or "", ledger_key=ask.key)
                if answer["status"] == "ok":
                    words = Words(answer["summary"], tuple(answer["categories"]), tuple(answer["items"]))
                    decision = note(seed, "regenerate", author, feedback, words)
                    return Regenerated(decision, "", int(not is_paid))
                if answer["status"] == "invalid":
                    note(seed, "unusable", author, answer["reason"])
                if not is_paid:
                    return Regenerated(None, str(answer["reason"]), 1)
        raise PoolError(
            "the engine would answer the same again",
            where=f"seed {seed}",
            got=", ".join(f"{name} {value}" for name, value in engine.parameters.items() if name in _DECISIVE),
            hint='--feedback "what is wrong with the answer", or --set rationales.options.temperature=0.7',
        )
    finally:
        engine.close()


_DECISIVE = ("temperature", "seed")
# The budget of a whole run is checked here, and one seed is no share of failures.
_ONE_CALL = {
    "max_attempts": 1, "max_failed_fraction": 1.0, "max_requests": None, "max_total_tokens": None, "max_cost": None,
}  # fmt: skip


def _plan(desk: Desk, seed: str, template: PromptTemplate, engine: Engine) -> Plan:
    tables = SeedTables.read(desk.finished.marts, pl.DataFrame({"user_id": [seed]}))
    plan = plan_requests(tables, template, engine, desk.project.config.rationales)
    if seed in plan.unaskable:
        raise PoolError("the LLM cannot be asked about this seed", where=seed, got=plan.unaskable[seed][1])
    return plan


def _earlier_answer(desk: Desk, seed: str, row: dict[str, Any]) -> str:
    decision = desk.curation.restricted_to(desk.finished.generated).replaced.get(seed)
    return (decision.text if decision else "") or str(row["text"] or "")


def _attempts(plan: Plan, seed: str, engine: Engine, earlier: str, feedback: str) -> Iterator[Ask]:
    """Yield the requests that may be made, each with a key of its own: one, or ever new ones of a sampling engine."""
    first = plan.roots[0]
    messages = first.request.messages
    if feedback:
        told: tuple[Message, ...] = ({"role": "assistant", "content": earlier.strip()},) if earlier.strip() else ()
        messages = (*messages, *told, {"role": "user", "content": feedback})
    request = replace(first.request, messages=messages)
    (prompt_tokens,) = most_tokens(engine, [request])
    is_sampling = engine.parameters.get("temperature", 0) != 0 and engine.parameters.get("seed") is None
    for attempt in count(2) if is_sampling else (2,) if feedback else ():
        key, *earlier_keys = request_keys(engine, request, plan.options, plan.options_id, attempt)
        yield Ask(key, seed, request, prompt_tokens, attempt, tuple(earlier_keys))


def _check_budget(desk: Desk, ask: Ask, ledger: Ledger) -> None:
    """Raise before a call that might pass what all calls for this project's seeds may take."""
    counted = desk.finished.rationales.manifest["usage"]["total"]
    asked = [d.ledger_key for d in read_decisions(desk.project.state / DECISIONS) if d.ledger_key]
    again = ledger.usage([*asked, ask.key]) if asked else Usage()
    spent = again + Usage(counted["calls"], 0, counted["prompt_tokens"], counted["completion_tokens"])
    if over := excess(desk.project.config.rationales, spent, longest([ask])):
        raise BudgetExceededError(
            "one more LLM call might pass the budget",
            where=f"rationales.{over.name}",
            got=f"{over.after:,.10g} after the call at most",
            expected=f"at most {over.limit:,.10g}",
            hint=f"reland pool regenerate {ask.seed_user_id} --set rationales.{over.name}=N with a larger N",
        )


def _silent(done: int, total: int) -> None:
    """Report no progress."""
