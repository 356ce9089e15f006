"""Generate a rationale for every seed user: histories → prompts → LLM → ledger → table (section 3.1.2).

Calls are made in batches that depend on the requests alone, not on what is answered already, because a
model's rounding depends on the batch: a run that was killed and resumed asks the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from reland_features.columns import RATIONALES
from reland_features.config import Rationales
from reland_features.engines.base import Engine
from reland_features.imported_texts import ImportedTexts, plan_imported
from reland_features.ledger import Ledger
from reland_features.prompts import PromptTemplate
from reland_features.rounds import Rounds, too_many_failures
from reland_features.seed_requests import Plan, plan_requests
from reland_features.seed_tables import SeedTables


@dataclass(frozen=True)
class GenerateResult:
    """Rationales (`columns.RATIONALES`, in the order of the seeds) and what they took.

    `usage` counts this run's calls, tokens and cost, and under `total` those of all runs, as far as
    they concern these seeds.
    """

    frame: pl.DataFrame
    usage: dict[str, Any]


def plan_calls(
    tables: SeedTables,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
) -> Plan:
    """Plan what the LLM is asked, or where the answers are texts of another system, what they are read as."""
    if isinstance(engine, ImportedTexts):
        return plan_imported(tables, template, engine, ledger, settings)
    return plan_requests(tables, template, engine, settings)


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def generate(
    tables: SeedTables,
    template: PromptTemplate,
    engine: Engine,
    ledger: Ledger,
    settings: Rationales,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    retry_failed: bool = False,
) -> GenerateResult:
    """Ask the LLM about every seed whose answer is not in the ledger, and read the answers.

    A failed call is tried again in a later round, an answer that is truncated is asked for again with
    twice the tokens, and an unusable one again as it is where the engine samples; each at most
    `settings.max_attempts` times. An answer is kept as it is and read anew in every run: a reader that
    understands more of them needs no further call.

    Parameters
    ----------
    tables : SeedTables
        The seeds, what is shown of them, and what they have seen.
    template, engine, ledger, settings
        The prompt, the LLM, where calls are recorded, and the limits. The budget covers all calls that
        the ledger holds for these requests, of earlier runs too.
    on_progress : callable, optional
        Called with (requests answered, requests) after every batch.
    retry_failed : bool
        Ask again for what is unusable in the ledger although its attempts are used up, and once where the
        engine is greedy.

    Raises
    ------
    BudgetExceededError
        The next batch might pass the budget. What was answered is in the ledger.
    TooManyFailuresError
        More than `settings.max_failed_fraction` of the seeds have no usable rationale; also in the ledger.
    """
    plan = plan_calls(tables, template, engine, ledger, settings)
    run = Rounds(plan, template, engine, ledger, settings, on_progress or _silent, retry_failed=retry_failed)
    run.ask_all()
    rows = [run.row(seed) for seed in tables.seeds["user_id"]]
    frame = pl.DataFrame(rows, schema=RATIONALES.polars_schema(), orient="row")
    failed = frame.filter(pl.col("status") != "ok")
    if failed.height > settings.max_failed_fraction * frame.height:
        # A failed call is made again by every run; an answer, usable or not, is read again and not asked for.
        has_answers = failed.filter(pl.col("status") == "invalid", pl.col("ledger_key") != "").height > 0
        raise too_many_failures(failed["reason"].to_list(), frame.height, settings, ledger, needs_retry=has_answers)
    return GenerateResult(frame, run.usage())
