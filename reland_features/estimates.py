"""Estimate what `generate` will take: real prompts, counted; answers and retries as the ledger or a probe has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from statistics import mean
from typing import Any

from reland_features.answers import problem_of, read_answer
from reland_features.config import Rationales
from reland_features.engines.base import Engine, Request, most_tokens
from reland_features.ledger import Attempt, Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rationales import plan_calls
from reland_features.rounds import Rounds
from reland_features.seed_requests import Ask, Plan, is_sampling, is_told, told
from reland_features.seed_tables import SeedTables
from reland_features.skeleton import Fixed, Free
from reland_features.usage import Usage

PROBE = 16  # prompts whose answers are timed at least; from as many calls in the ledger on, those are believed
_TIMED_BATCHES = 3  # at least: batches of one run differ by 10 % and more in seconds a call (benchmarks.dry_run)


@dataclass(frozen=True)
class Amount:
    """Calls, tokens, cost and time; `seconds` is None where nothing is known of it."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, and the time in hours too."""
        hours = None if self.seconds is None else round(self.seconds / 3600, 4)
        seconds = None if self.seconds is None else round(self.seconds, 3)
        return asdict(self) | {"cost": round(self.cost, 6), "seconds": seconds, "hours": hours}


@dataclass(frozen=True)
class Estimate:
    """What `generate` would ask, and what that takes.

    Parameters
    ----------
    requests, cached : int
        Distinct requests of the seeds, and how many of them have an answer in the ledger.
    expected, at_most : Amount
        What is still to be asked. At most: every answer as long as it may be, every request asked
        `max_attempts` times and, where the engine is told what was wrong, with all that was said, within the budget.
    total : Amount
        Expected of all runs for these requests together: what was spent, and what is expected.
    basis : str
        Where the lengths of answers, the retries and the time come from.
    """

    requests: int
    cached: int
    expected: Amount
    at_most: Amount
    total: Amount
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping for JSON."""
        amounts = {name: getattr(self, name).as_dict() for name in ("expected", "at_most", "total")}
        return {"requests": self.requests, "cached": self.cached, **amounts, "basis": self.basis}


@dataclass(frozen=True)
class _Calls:
    """Calls to judge by: means over attempts, failed ones and repeated ones included."""

    basis: str
    completion_tokens: float
    prompt_tokens: float = 0.0
    seconds: float | None = None
    again: float = 0.0  # share of the attempts that another one follows
    counted: float = 1.0  # share of the attempts whose prompt was counted: a refused call takes none


def estimate(
    tables: SeedTables,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
    *,
    retry_failed: bool = False,
) -> Estimate:
    """Estimate what `rationales.generate` with the same arguments would take.

    A paid engine is not called. One on this machine (`is_local`) with few calls in the ledger answers 16 of the
    prompts first, in three batches at least, after one batch that loads the model; these answers stay in the ledger.
    Prompt tokens are counted by the engine; where it has no tokenizer of its own, its count is put right by what the
    server counted for the answers that are there.
    """
    plan = plan_calls(tables, template, engine, ledger, settings)

    def look() -> tuple[Rounds, list[Ask]]:
        rounds = Rounds(plan, template, engine, ledger, settings, _silent, retry_failed=retry_failed)
        return rounds, rounds.pending()

    rounds, asks = look()
    past = _past(plan, rounds, template, engine, ledger, settings)
    if asks and past is None and getattr(engine, "is_local", False):
        _probe(plan, template, engine, ledger, settings)
        rounds, asks = look()
        past = _past(plan, rounds, template, engine, ledger, settings, probed=True)
    past = past or _layout(plan, template, engine)
    expected = _expected(asks, past, _correction(plan, ledger), engine, settings)
    spent = rounds.spent
    before = Amount(spent.calls, spent.prompt_tokens, spent.completion_tokens, _cost(spent, settings), spent.seconds)
    return Estimate(
        requests=len(plan.roots),
        cached=rounds.cached,
        expected=expected,
        at_most=_at_most(asks, spent, settings, rounds.ratio, _told_tokens(asks, plan, template, engine)),
        total=_sum(before, expected),
        basis=past.basis if asks else "every request is answered in the ledger",
    )


def _past(
    plan: Plan,
    rounds: Rounds,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
    *,
    probed: bool = False,
) -> _Calls | None:
    """Summarise the calls of these requests, or else of this engine and prompt; None where there are too few."""
    parameters = json.dumps(engine.parameters, sort_keys=True, default=str)
    same = {"engine_id": engine.engine_id, "prompt_id": template.prompt_id, "parameters": parameters}
    rows = [attempt for _, attempt in ledger.attempts(**same)]
    own = [attempt for attempt in rows if attempt.key in rounds.keys]
    enough = 1 if probed else min(PROBE, len(plan.roots))
    chosen = own if len(own) >= enough else rows
    if len(chosen) < max(1, enough):
        return None
    where = "of these requests" if chosen is own else "of this engine and prompt"
    first = min(attempt.started_at for attempt in chosen)  # this batch loaded the model
    timed = [attempt for attempt in chosen if attempt.started_at != first] or chosen
    return _Calls(
        basis=f"a probe of {len(chosen)} prompts" if probed else f"{len(chosen):,} calls {where} in the ledger",
        completion_tokens=mean(attempt.completion_tokens for attempt in chosen),
        prompt_tokens=mean(attempt.prompt_tokens for attempt in timed),
        seconds=mean(attempt.seconds for attempt in timed),
        again=mean(_is_repeated(attempt, plan, template, engine, settings) for attempt in chosen),
        counted=mean(attempt.prompt_tokens > 0 for attempt in chosen),
    )


def _is_repeated(attempt: Attempt, plan: Plan, template: PromptTemplate, engine: Engine, settings: Rationales) -> bool:
    if attempt.status == "failed" or attempt.finish_reason == "length":
        return True
    if not is_sampling(engine) and not is_told(engine):
        return False
    banned = plan.histories[attempt.seed_user_id].banned if attempt.seed_user_id in plan.histories else ()
    return bool(problem_of(attempt, read_answer(attempt.text, template, plan.catalogue, banned, settings)))


def _probe(plan: Plan, template: PromptTemplate, engine: Engine, ledger: Ledger, settings: Rationales) -> None:
    """Ask the first batch, and some from all over the rest: batches are sorted by length."""
    size = max(1, engine.batch_size)
    batches = [plan.roots[start : start + size] for start in range(0, len(plan.roots), size)]
    rest = batches[1:]
    wanted = min(len(rest), max(_TIMED_BATCHES, ceil(PROBE / size)))
    chosen = [rest[(2 * n + 1) * len(rest) // (2 * wanted)] for n in range(wanted)]
    roots = tuple(ask for batch in (batches[0], *chosen) for ask in batch)
    Rounds(replace(plan, roots=roots), template, engine, ledger, settings, _silent).ask_all()


def _layout(plan: Plan, template: PromptTemplate, engine: Engine) -> _Calls:
    """Suppose answers in the layout that is asked for: what can be said without any call."""
    summary = template.summary_max_tokens
    basis = (
        f"no call yet: answers in the asked layout, names of median length, a Step 1 of {summary} tokens, no retries"
    )
    if not plan.roots:
        return _Calls(basis, 0.0)
    request = plan.roots[len(plan.roots) // 2].request
    free, text = 0, ""
    for part in request.skeleton:
        if isinstance(part, Fixed):
            text += part.text
        elif isinstance(part, Free):
            free, text = free + part.max_tokens, text + "\n"
        else:
            options = sorted(plan.options[part.options], key=len)
            text += f" {options[len(options) // 2]}\n"
    answer, empty = (Request(({"role": "assistant", "content": content},)) for content in (text, ""))
    whole, nothing = most_tokens(engine, [answer, empty])
    return _Calls(basis, min(free + max(0, whole - nothing), request.max_tokens))


def _correction(plan: Plan, ledger: Ledger) -> float:
    """Return prompt tokens as the server counted them over those that the engine counted; 1 without answers."""
    answers = ledger.answers(key for ask in plan.roots for key in ask.keys)
    pairs = [(answers[key].prompt_tokens, a.prompt_tokens) for a in plan.roots for key in a.keys if key in answers]
    counted = sum(ours for theirs, ours in pairs if theirs)
    return sum(theirs for theirs, _ in pairs) / counted if counted else 1.0


def _expected(asks: Sequence[Ask], past: _Calls, correction: float, engine: Engine, settings: Rationales) -> Amount:
    if not asks:
        return Amount(0, 0, 0, 0.0, 0.0)
    prompt_tokens = correction * sum(ask.prompt_tokens for ask in asks)
    per_ask = sum(past.again**n for n in range(settings.max_attempts))
    calls, counted = len(asks) * per_ask, prompt_tokens * per_ask * past.counted
    usage = Usage(round(calls), 0, round(counted), round(calls * past.completion_tokens))
    seconds = None if past.seconds is None else calls * past.seconds
    if seconds and getattr(engine, "is_local", False) and past.prompt_tokens:
        seconds *= prompt_tokens / len(asks) / past.prompt_tokens  # longer prompts than those that were timed
    return Amount(usage.calls, usage.prompt_tokens, usage.completion_tokens, _cost(usage, settings), seconds)


def _told_tokens(asks: Sequence[Ask], plan: Plan, template: PromptTemplate, engine: Engine) -> int | None:
    """Return what telling an engine of an answer adds to its prompt, besides the answer; None if it is not told."""
    if not asks or not is_told(engine):
        return None
    request = asks[0].request
    # Nothing of this answer is usable: every problem is named. Names come on top, and are the answer's own.
    problem = f"{template.parse('0', plan.catalogue).reason} (not in the catalogue: ; ; ; ; )"
    before, after = most_tokens(engine, [request, told(request, "", problem)])
    return after - before


def _at_most(asks: Sequence[Ask], spent: Usage, settings: Rationales, ratio: float, told_tokens: int | None) -> Amount:
    """Bound all attempts at some requests; `ratio` as in `Rounds.ratio`, `told_tokens` as `_told_tokens` says.

    A truncated answer doubles `max_tokens`. One that the engine is told of stands in all later prompts, and what it
    names that nobody knows once more: before attempt n (from 0) at most 2^(n-1) `max_tokens` of answers were told,
    all of the first length for n up to 2, else the last ones after earlier ones were truncated.
    """
    attempts = range(settings.max_attempts)
    prompt_tokens = 0
    for ask in asks:
        for n in attempts:
            said = 2 * (ask.request.max_tokens << (n - 1)) if n and told_tokens is not None else 0
            prompt_tokens += ceil(ratio * (ask.prompt_tokens + n * (told_tokens or 0))) + said
    usage = Usage(
        calls=len(asks) * len(attempts),
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(ask.request.max_tokens << n for ask in asks for n in attempts),
    )
    calls, cost = usage.calls, _cost(usage, settings)
    if settings.max_requests is not None:
        calls = min(calls, max(0, settings.max_requests - spent.calls))
    if settings.max_cost is not None:
        cost = min(cost, max(0.0, settings.max_cost - _cost(spent, settings)))
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if settings.max_total_tokens is not None:
        left = max(0, settings.max_total_tokens - spent.total_tokens)
        prompt, completion = min(prompt, left), min(completion, left)
    return Amount(calls, prompt, completion, cost)


def _cost(usage: Usage, settings: Rationales) -> float:
    return usage.cost(settings.prompt_price, settings.completion_price)


def _sum(one: Amount, other: Amount) -> Amount:
    seconds = None if one.seconds is None or other.seconds is None else one.seconds + other.seconds
    return Amount(
        one.calls + other.calls,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cost + other.cost,
        seconds,
    )


def _silent(done: int, total: int) -> None:
    """Report no progress."""
