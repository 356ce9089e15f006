"""Rules about words: refusals, personal data, and a list of words that must not be served."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from reland_features.errors import ConfigError
from reland_features.finished_pool import WrittenRationale
from reland_features.prompts.text import fold
from reland_features.review.base import Finding, ReviewedPool

_REFUSALS = re.compile(
    r"(?i)\bas an? (?:ai|artificial intelligence|(?:large )?language model|assistant|chatbot)\b"
    r"|\b(?:i am|i'm|i’m) (?:sorry|unable|not able)\b|\b(?:i can(?:no|')t|i cannot|i can’t|i won't) "
    r"(?:help|assist|provide|recommend|answer|fulfil|comply|do that|determine|access)"
    r"|\bi (?:do not|don't|don’t) have (?:access|enough|personal)\b|\bunable to (?:help|assist|provide|recommend)\b"
)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ ./-]?)?(?:\(\d{2,5}\)[ ./-]?)?\d{2,5}(?:[ ./-]\d{2,5}){1,4}(?![\w.])")
_CARD = re.compile(r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)")

# Short on purpose: a team's own list (`review.words`) knows its language and its market.
WORDS = (
    *("arse", "asshole", "bastard", "bitch", "bitches", "bullshit", "cocksucker", "cunt", "dickhead", "fag", "faggot"),
    *("fuck", "fucked", "fucker", "fucking", "motherfucker", "nazi", "nigger", "paki", "prick", "retard", "retarded"),
    *("shit", "shitty", "slut", "sluts", "twat", "wanker", "whore", "whores"),
)


def refusal(rationale: WrittenRationale) -> tuple[float, str] | None:
    """Find an answer in which the LLM talks about itself or declines."""
    found = _REFUSALS.search(rationale.summary) or _REFUSALS.search(rationale.text)
    if found is None:
        return None
    text = found.string
    return 0.9, f"“{' '.join(text[max(0, found.start() - 20) : found.end() + 40].split())}”"


class PersonalData:
    """Find e-mail addresses, telephone and card numbers in a rationale's own words; the evidence is masked."""

    name = "personal"

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return a finding for each rationale with personal data."""
        for rationale, words in zip(pool.rationales, pool.own_words, strict=True):
            kinds = {
                "e-mail address": _EMAIL.findall(words),
                "card number": [number for number in _CARD.findall(words) if is_card(number)],
                "telephone number": [number for number in _PHONE.findall(words) if is_phone(number)],
            }
            if found := [f"{kind} {mask(values[0])}" for kind, values in kinds.items() if values]:
                yield Finding(self.name, (rationale.seed_user_id,), 1.0, "; ".join(found))


class ForbiddenWords:
    """Find words of a list in a rationale's own words; titles of the catalogue are the shop's own affair.

    The list is a short one of English insults, or the lines of the file `review.words` (a word or phrase each;
    ``#`` begins a comment), which replaces it. Case, accents and punctuation do not matter.
    """

    name = "words"

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return a finding for each rationale with such words."""
        listed = [fold(word) for word in read_words(pool.settings.words)]
        pattern = re.compile(r"\b(?:" + "|".join(re.escape(word) for word in sorted(listed, key=len)[::-1]) + r")\b")
        for rationale, words in zip(pool.rationales, pool.own_words, strict=True):
            if listed and (found := pattern.findall(fold(words))):
                yield Finding(self.name, (rationale.seed_user_id,), 1.0, ", ".join(dict.fromkeys(found)))


def read_words(path: str | None) -> Sequence[str]:
    """Return the built-in list, or that of a file.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    if path is None:
        return WORDS
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the list of words cannot be read", where=f"review.words = {path!r}", got=error, expected="a text file"
        ) from error
    words = (line.partition("#")[0].strip() for line in lines)
    return [word for word in words if fold(word)]


def is_card(number: str) -> bool:
    """Say whether digits are 13 to 19 and pass the Luhn check, as card numbers do."""
    digits = [int(d) for d in number if d.isdigit()]
    doubled = [d if n % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for n, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def is_phone(number: str) -> bool:
    """Say whether digits are 9 to 15, as of a whole telephone number; years and sizes are shorter."""
    return 9 <= sum(c.isdigit() for c in number) <= 15 and not is_card(number)


def mask(value: str) -> str:
    """Show the first and the last two characters only."""
    return value[:2] + "*" * max(3, len(value) - 4) + value[-2:]
