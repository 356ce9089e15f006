"""Generate a rationale for every seed user: histories → prompts → LLM → ledger → table (section 3.1.2).

Calls are made in batches that depend on the requests alone, not on what is answered already, because a
model's rounding depends on the batch: a run that was killed and resumed asks the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

import polars as pl

from reland_features.columns import RATIONALES
from reland_features.config import Rationales
from reland_features.engines.base import Engine
from reland_features.imported_texts import ImportedTexts, plan_imported
from reland_features.ledger import Ledger, Usage
from reland_features.prompts import PromptTemplate
from reland_features.rounds import Rounds, too_many_failures
from reland_features.seed_requests import Plan, SeedHistory, histories_of_seeds, plan_requests

__all__ = ["DryRun", "GenerateResult", "SeedHistory", "dry_run", "generate", "histories_of_seeds"]


@dataclass(frozen=True)
class GenerateResult:
    """Rationales (`columns.RATIONALES`, in the order of the seeds) and what they took.

    `usage` counts this run's calls, tokens and cost, and under `total` those of all runs, as far as
    they concern these seeds.
    """

    frame: pl.DataFrame
    usage: dict[str, Any]


@dataclass(frozen=True)
class DryRun:
    """What `generate` would do: calls and answers in the ledger, tokens, cost, seconds (None if unknown).

    `completion_tokens_limit` and `cost` suppose the longest answers allowed and no retries.
    """

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens_limit: int
    cost: float
    seconds_estimate: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping."""
        return asdict(self)


def dry_run(
    seeds: pl.DataFrame,
    histories: pl.DataFrame,
    items: pl.DataFrame,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
) -> DryRun:
    """Say what `generate` with the same arguments would ask for.

    A paid engine is not called. One on this machine (`is_local`) that has no call in the ledger yet answers its
    first two batches, which are kept, so that the time can be estimated.
    """
    plan = _plan(seeds, histories, items, template, engine, ledger, settings)
    seconds = ledger.seconds_per_call(engine.engine_id)
    if seconds is None and getattr(engine, "is_local", False):
        seconds = _probe(plan, template, engine, ledger, settings)
    answered = ledger.answers(ask.key for ask in plan.roots)
    asks = [ask for ask in plan.roots if ask.key not in answered]
    usage = Usage(
        calls=len(asks),
        prompt_tokens=sum(ask.prompt_tokens for ask in asks),
        completion_tokens=sum(ask.request.max_tokens for ask in asks),
    )
    return DryRun(
        calls=len(asks),
        cached=len(answered),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens_limit=usage.completion_tokens,
        cost=usage.cost(settings.prompt_price, settings.completion_price),
        seconds_estimate=None if seconds is None else seconds * len(asks),
    )


def _plan(
    seeds: pl.DataFrame,
    histories: pl.DataFrame,
    items: pl.DataFrame,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
) -> Plan:
    """Plan what the LLM is asked, or where the answers are texts of another system, what they are read as."""
    if isinstance(engine, ImportedTexts):
        return plan_imported(seeds, histories, items, template, engine, ledger, settings)
    return plan_requests(seeds, histories, items, template, engine, settings)


def _probe(plan: Plan, template: PromptTemplate, engine: Engine, ledger: Ledger, settings: Rationales) -> float | None:
    """Return seconds a call, from the second batch: the first one loads the model."""
    size = engine.batch_size
    Rounds(replace(plan, roots=plan.roots[: 2 * size]), template, engine, ledger, settings, _silent).ask_all()
    timed = plan.roots[size : 2 * size] or plan.roots[:size]
    answers = ledger.answers(ask.key for ask in timed).values()
    if not answers:
        return None
    # Batches are sorted by length, so the first ones are the shortest.
    longer = mean(ask.prompt_tokens for ask in plan.roots) / mean(ask.prompt_tokens for ask in timed)
    return longer * mean(answer.seconds for answer in answers)


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def generate(
    seeds: pl.DataFrame,
    histories: pl.DataFrame,
    items: pl.DataFrame,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
    on_progress: Callable[[int, int], None] | None = None,
) -> GenerateResult:
    """Ask the LLM about every seed whose answer is not in the ledger, and read the answers.

    A failed call is tried again in a later round, an answer that is truncated is asked for again with
    twice the tokens, and an unusable one again as it is where the engine samples; each at most
    `settings.max_attempts` times in all.

    Parameters
    ----------
    seeds, histories, items : polars.DataFrame
        `columns.SEED_USERS`, `columns.USER_HISTORIES`, `columns.ITEMS`.
    template, engine, ledger, settings
        The prompt, the LLM, where calls are recorded, and the limits. The budget covers all calls that
        the ledger holds for these requests, of earlier runs too.
    on_progress : callable, optional
        Called with (requests answered, requests) after every batch.

    Raises
    ------
    BudgetExceededError
        The next batch might pass the budget. What was answered is in the ledger.
    TooManyFailuresError
        More than `settings.max_failed_fraction` of the seeds have no usable rationale; also in the ledger.
    """
    plan = _plan(seeds, histories, items, template, engine, ledger, settings)
    run = Rounds(plan, template, engine, ledger, settings, on_progress or _silent)
    run.ask_all()
    rows = [run.row(seed) for seed in seeds["user_id"]]
    frame = pl.DataFrame(rows, schema=RATIONALES.polars_schema(), orient="row")
    reasons = frame.filter(pl.col("status") != "ok")["reason"].to_list()
    if len(reasons) > settings.max_failed_fraction * frame.height:
        raise too_many_failures(reasons, frame.height, settings, ledger)
    return GenerateResult(frame, run.usage())
