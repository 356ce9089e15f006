"""Count what LLM calls took: calls, tokens, seconds, money."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Usage:
    """Totals of attempts: calls (failed ones included, imported answers not), failed calls, tokens, seconds."""

    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(one - less for one, less in zip(astuple(self), astuple(other), strict=True)))

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the bill for prices per million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


@dataclass(frozen=True)
class EngineUsage:
    """What one engine took, and what that costs at the prices it was last configured with."""

    engine_id: str
    usage: Usage
    cost: float
