"""Read an LLM's answers as a seed may use them."""

from __future__ import annotations

from collections.abc import Collection

from reland_features.config import Rationales
from reland_features.ledger import Attempt
from reland_features.prompts import Catalogue, ParsedRationale, PromptTemplate


def read_answer(
    text: str,
    template: PromptTemplate,
    catalogue: Catalogue,
    banned: Collection[str],
    settings: Rationales,
    *,
    needs_step2: bool = True,
) -> ParsedRationale:
    """Read an answer of the ledger; where Step 1 alone will do, for that at least. `banned` are full titles."""
    parsed = template.parse(text, catalogue, banned, settings.categories, settings.items)
    return template.parse_step1(text) if parsed.reason and not needs_step2 else parsed


def problem_of(answer: Attempt, parsed: ParsedRationale) -> str:
    """Return why an answer is not usable, or nothing."""
    if answer.finish_reason == "length":
        truncated = f"the answer is truncated after {answer.completion_tokens} tokens"
        return f"{truncated}; {parsed.reason}" if parsed.reason else truncated
    return parsed.reason
