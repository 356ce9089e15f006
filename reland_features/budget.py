"""What all calls for a project's seeds may take, `rationales.max_requests`, `max_total_tokens` and `max_cost`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from reland_features.config import Rationales
from reland_features.seed_requests import Ask
from reland_features.usage import Usage


@dataclass(frozen=True)
class Excess:
    """A limit of ``[rationales]`` that more calls might pass; `spent` and `after` are in its unit."""

    name: str
    limit: float
    spent: float
    after: float


def excess(settings: Rationales, spent: Usage, more: Usage) -> Excess | None:
    """Return the first limit that `more` would pass, on top of what is spent; None within the budget."""
    after, prices = spent + more, (settings.prompt_price, settings.completion_price)
    for name, limit, now, then in (
        ("max_requests", settings.max_requests, spent.calls, after.calls),
        ("max_total_tokens", settings.max_total_tokens, spent.total_tokens, after.total_tokens),
        ("max_cost", settings.max_cost, spent.cost(*prices), after.cost(*prices)),
    ):
        if limit is not None and then > limit:
            return Excess(name, limit, now, then)
    return None


def longest(asks: Iterable[Ask], ratio: float = 1.0) -> Usage:
    """Return what requests take if every answer is as long as it may be, and prompts `ratio` times as counted."""
    each = (Usage(1, 0, ceil(ask.prompt_tokens * ratio), ask.request.max_tokens) for ask in asks)
    return sum(each, Usage())
