"""Ask the LLM in rounds of batches, within a budget: what failed or is unusable goes into the next round."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import accumulate, takewhile
from typing import Any

from reland_features.answers import problem_of, read_answer
from reland_features.budget import excess, longest
from reland_features.columns import RATIONALES
from reland_features.config import Rationales
from reland_features.engines.base import Completion, Engine, StreamingEngine, answer_batches
from reland_features.errors import BudgetExceededError, TooManyFailuresError
from reland_features.ledger import Attempt, Ledger
from reland_features.prompts import ParsedRationale, PromptTemplate
from reland_features.seed_requests import Ask, Plan, is_sampling, is_told, next_ask
from reland_features.usage import Usage

_HOPELESS = 24  # calls in a row that may fail before the engine is given up


class Rounds:
    """What has been answered and what is still to be asked; arguments as for `rationales.generate`."""

    def __init__(
        self,
        plan: Plan,
        template: PromptTemplate,
        engine: Engine,
        ledger: Ledger,
        settings: Rationales,
        on_progress: Callable[[int, int], None],
        *,
        retry_failed: bool = False,
    ) -> None:
        self._plan, self._template, self._engine, self._ledger = plan, template, engine, ledger
        self._settings, self._on_progress, self._retry_failed = settings, on_progress, retry_failed
        self._now: dict[str, Ask] = {ask.key: ask for ask in plan.roots}  # by root: what is asked for it now
        # By root, then by key of the request: the answers in order; none follows one that every seed can use.
        self._answers: dict[str, dict[str, Attempt]] = {}
        # By root: its seeds. What one has seen and is not to be told again need not be what another has: each reads.
        self._readers: dict[str, dict[frozenset[str], str]] = {}
        for seed, root in plan.root_of.items():
            self._readers.setdefault(root, {}).setdefault(plan.histories[seed].banned, seed)
        self._failures: dict[str, Attempt] = {}  # by root: the latest failed call of this run
        self._asked: Counter[str] = Counter()  # by root: calls of this run
        self._keys: set[str] = set()  # everything asked for, in this run or an earlier one
        self._spent = Usage()
        self._before = Usage()
        self._ratio = 1.0
        self._failed_in_a_row = 0
        self._cached = 0

    def ask_all(self) -> None:
        """Ask in rounds until every request has a usable answer or no attempt is left."""
        open_roots, is_first = list(self._now), True
        while open_roots:
            self._round([(root, self._now[root]) for root in open_roots], is_first=is_first)
            open_roots, is_first = self._still_open(open_roots), False

    def pending(self) -> list[Ask]:
        """Return what a run would ask first, without asking: all that the ledger holds is looked up."""
        open_roots, is_first = list(self._now), True
        asks: list[Ask] = []
        while open_roots:
            known = self._look_up([(root, self._now[root]) for root in open_roots], is_first=is_first)
            asks += [self._now[root] for root in open_roots if self._now[root].key not in known]
            answered = [root for root in open_roots if self._now[root].key in known]
            open_roots, is_first = self._still_open(answered), False
        return asks

    def row(self, seed: str) -> dict[str, Any]:
        """Return a seed's row of `columns.RATIONALES`."""
        row: dict[str, Any] = dict.fromkeys(RATIONALES.names)
        row |= {"seed_user_id": seed, "prompt_tokens": 0, "completion_tokens": 0, "ledger_key": ""}
        if seed in self._plan.unaskable:
            status, reason = self._plan.unaskable[seed]
            return row | {"status": status, "reason": reason}
        root = self._plan.root_of[seed]
        if root not in self._answers:
            return row | {"status": "failed", "reason": self._failures[root].error, "ledger_key": root}
        answer, parsed, reason = self._best(root, seed)
        return row | {
            "status": "invalid" if reason else "ok",
            "summary": parsed.summary or None,
            "categories": list(parsed.categories),
            "items": list(parsed.items),
            "text": answer.text,
            "reason": reason or None,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "ledger_key": answer.key,
        }

    @property
    def keys(self) -> frozenset[str]:
        """Ledger keys of all that was asked or looked up."""
        return frozenset(self._keys)

    @property
    def spent(self) -> Usage:
        """What these requests took so far, in all runs."""
        return self._spent

    @property
    def ratio(self) -> float:
        """The most prompt tokens that a server counted for one that the engine had counted; 1 at least.

        An engine without the model's tokenizer guesses: what it guessed too low once is not believed again.
        """
        return self._ratio

    @property
    def cached(self) -> int:
        """Requests that had an answer in the ledger."""
        return self._cached

    def usage(self) -> dict[str, Any]:
        """Count this run's calls, and under `total` those of all runs for these requests."""
        here = self._summary(self._spent - self._before)
        return {**here, "cached": self._cached, "total": self._summary(self._spent)}

    def _summary(self, usage: Usage) -> dict[str, Any]:
        cost = usage.cost(self._settings.prompt_price, self._settings.completion_price)
        return {**asdict(usage), "seconds": round(usage.seconds, 3), "cost": round(cost, 6)}

    def _look_up(self, asks: Sequence[tuple[str, Ask]], *, is_first: bool) -> dict[str, Attempt]:
        """Take the answers that the ledger has, and return them by key."""
        keys = {key for _, ask in asks for key in ask.keys} - self._keys
        known, earlier = self._known(ask for _, ask in asks), self._ledger.usage(sorted(keys))
        self._keys |= keys
        self._spent, self._before = self._spent + earlier, self._before + earlier
        for root, ask in asks:
            if ask.key in known:
                self._take(root, ask, known[ask.key])
        self._cached += len(known) if is_first else 0
        return known

    def _known(self, asks: Iterable[Ask]) -> dict[str, Attempt]:
        """Return the ledger's answers by the request's key; those under an earlier key where there is no other."""
        asks = list(asks)
        found = self._ledger.answers(key for ask in asks for key in ask.keys)
        return {ask.key: found[key] for ask in asks for key in reversed(ask.keys) if key in found}

    def _round(self, asks: Sequence[tuple[str, Ask]], *, is_first: bool) -> None:
        known = self._look_up(asks, is_first=is_first)
        size = max(1, self._engine.batch_size)
        whole = [asks[start : start + size] for start in range(0, len(asks), size)]
        batches = [batch for some in whole if (batch := [(root, ask) for root, ask in some if ask.key not in known])]
        if not batches:
            self._on_progress(len(self._answers), len(self._plan.roots))
        while batches:
            some = self._affordable(batches)
            self._call(batches[:some])
            batches = batches[some:]

    def _call(self, batches: Sequence[Sequence[tuple[str, Ask]]]) -> None:
        """Ask some batches; each is in the ledger before the next answers are waited for."""
        requests = [[ask.request for _, ask in batch] for batch in batches]
        started_at, started = datetime.now(UTC), time.perf_counter()
        for number, completions in answer_batches(self._engine, requests, self._plan.options):
            # Of batches that run side by side each counts the time since the one before: the sum is the time it took.
            seconds = (time.perf_counter() - started) / len(completions)
            self._record(batches[number], completions, started_at, seconds)
            self._on_progress(len(self._answers), len(self._plan.roots))
            started_at, started = datetime.now(UTC), time.perf_counter()

    def _record(
        self, batch: Sequence[tuple[str, Ask]], completions: Sequence[Completion], started_at: datetime, seconds: float
    ) -> None:
        attempts = [
            self._attempt(ask, completion, started_at, seconds)
            for (_, ask), completion in zip(batch, completions, strict=True)
        ]
        self._ledger.record(attempts)
        for (root, ask), attempt in zip(batch, attempts, strict=True):
            self._take(root, ask, attempt)
            self._asked[root] += 1
            ok = attempt.status == "ok"
            self._failed_in_a_row = 0 if ok else self._failed_in_a_row + 1
            call = Usage(1, not ok, attempt.prompt_tokens, attempt.completion_tokens, attempt.seconds)
            self._spent += call
        allowed = self._settings.max_failed_fraction * len(self._plan.roots)
        if self._failed_in_a_row >= max(_HOPELESS, 3 * len(batch), allowed + 1):
            errors = [attempt.error for attempt in self._failures.values()]
            raise too_many_failures(errors, len(self._plan.roots), self._settings, self._ledger)

    def _attempt(self, ask: Ask, completion: Completion, started_at: datetime, seconds: float) -> Attempt:
        return Attempt(
            key=ask.key,
            engine_id=self._engine.engine_id,
            prompt_id=self._template.prompt_id,
            parameters=json.dumps(self._engine.parameters, sort_keys=True, default=str),
            seed_user_id=ask.seed_user_id,
            status="failed" if completion.error else "ok",
            text=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            error=completion.error,
            started_at=started_at.isoformat(),
            seconds=seconds,
        )

    def _take(self, root: str, ask: Ask, attempt: Attempt) -> None:
        if ask.prompt_tokens:
            self._ratio = max(self._ratio, attempt.prompt_tokens / ask.prompt_tokens)
        if attempt.status == "failed":
            self._failures[root] = attempt
        else:
            self._answers.setdefault(root, {})[ask.key] = attempt

    def _still_open(self, roots: Sequence[str]) -> list[str]:
        """Return those of some requests that are asked, or looked up, again, and decide how."""
        unusable: dict[str, tuple[Ask, bool]] = {}
        is_open = dict.fromkeys(roots, False)
        for root in roots:
            ask = self._now[root]
            answer = self._answers.get(root, {}).get(ask.key)
            if answer is None:  # the call failed: the same again
                is_open[root] = self._asked[root] < self._settings.max_attempts
            elif problem := self._problem(root):
                is_truncated, text = answer.finish_reason == "length", answer.text
                again = next_ask(ask, self._engine, self._plan, is_truncated=is_truncated, text=text, problem=problem)
                unusable[root] = again, is_truncated or is_sampling(self._engine) or is_told(self._engine)
        # What an earlier run asked again is followed, whether this one would have asked or not.
        known = self._known(again for again, _ in unusable.values())
        for root, (again, may_differ) in unusable.items():
            if again.key in known or self._may_ask(root, again, may_differ=may_differ):
                self._now[root], is_open[root] = again, True
        return [root for root in roots if is_open[root]]

    def _may_ask(self, root: str, again: Ask, *, may_differ: bool) -> bool:
        """Decide on another attempt at an unusable answer; `may_differ` where a better one is likely."""
        most, calls = self._settings.max_attempts, self._asked[root]
        if self._retry_failed:  # once where the engine is greedy: only another batch or server would answer otherwise
            return calls < (most if may_differ else 1)
        return may_differ and calls < most and again.attempt <= most

    def _problem(self, root: str) -> str:
        """Return what is wrong with the latest answer for the first seed that can use none so far, or nothing."""
        return next((reason for seed in self._readers[root].values() if (reason := self._best(root, seed)[2])), "")

    def _best(self, root: str, seed: str) -> tuple[Attempt, ParsedRationale, str]:
        """Return the first answer that a seed can use, or else the latest, as it reads it, and its problem."""
        plan, settings = self._plan, self._settings
        banned = plan.histories[seed].banned
        for answer in self._answers[root].values():
            parsed = read_answer(
                answer.text, self._template, plan.catalogue, banned, settings, needs_step2=plan.needs_step2
            )
            if not (reason := problem_of(answer, parsed)):
                break
        return answer, parsed, reason

    def _affordable(self, batches: Sequence[Sequence[tuple[str, Ask]]]) -> int:
        """Count the first batches that fit the budget with their longest answers: one, or more for a streaming engine.

        Raises
        ------
        BudgetExceededError
            Not even the first one fits.
        """
        settings = self._settings
        most = [longest((ask for _, ask in batch), self._ratio) for batch in batches]
        if over := excess(settings, self._spent, most[0]):
            raise BudgetExceededError(
                f"the next {len(batches[0])} LLM calls might pass the budget; "
                f"{len(self._answers)} of {len(self._plan.roots)} requests are answered and kept",
                where=f"rationales.{over.name}",
                got=f"{over.spent:,.10g} spent, {over.after:,.10g} after the next calls at most",
                expected=f"at most {over.limit:,.10g}",
                hint=f"reland run --set rationales.{over.name}=N with a larger N; answered requests cost nothing",
            )
        if not isinstance(self._engine, StreamingEngine):
            return 1
        return sum(1 for _ in takewhile(lambda total: not excess(settings, self._spent, total), accumulate(most)))


def too_many_failures(
    reasons: Sequence[str], total: int, settings: Rationales, ledger: Ledger, *, needs_retry: bool = False
) -> TooManyFailuresError:
    """Return the error that names the first reasons; `needs_retry` where not all of them are asked again by any run."""
    first = list(dict.fromkeys(reasons))[:3]
    if settings.engine == "imported":
        hint = "import better texts, or raise rationales.max_failed_fraction"
    elif needs_retry:
        hint = (
            "reland generate --retry-failed asks for these again; without it unusable answers are kept and not paid "
            "again; or change the prompt or the model, or raise rationales.max_failed_fraction"
        )
    else:
        hint = "mend the cause and run again: usable answers are kept, only the failed calls are made again"
    return TooManyFailuresError(
        f"{len(reasons)} of {total} seed users have no usable rationale",
        where=str(ledger.path),
        got=" | ".join(first),
        expected=f"at most {settings.max_failed_fraction:.1%} (rationales.max_failed_fraction)",
        hint=hint,
    )
