"""Review a pool: run every rule over its rationales, the most suspicious first."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reland_features.config import Review
from reland_features.errors import ConfigError
from reland_features.finished_pool import FinishedPool
from reland_features.prompts import PromptTemplate
from reland_features.review.base import EachRationale, Finding, ReviewedPool, Rule
from reland_features.review.content import ForbiddenWords, PersonalData, refusal
from reland_features.review.duplicates import SameEmbedding, SameText
from reland_features.review.grounding import repeated, ungrounded, untouched
from reland_features.review.language import LanguageMismatch

__all__ = ["BUILT_IN", "EachRationale", "Finding", "ReviewResult", "ReviewedPool", "Rule", "review", "rules_of"]

BUILT_IN: tuple[Rule, ...] = (
    EachRationale("refusal", refusal),
    PersonalData(),
    ForbiddenWords(),
    LanguageMismatch(),
    EachRationale("ungrounded", ungrounded),
    EachRationale("in-history", repeated),
    EachRationale("untouched-category", untouched),
    SameText(),
    SameEmbedding(),
)


@dataclass(frozen=True)
class ReviewResult:
    """What the rules found, the most suspicious rationale first, with all that was found of it.

    A finding about many seeds stands alone, in the place of its own severity.
    """

    pool_version: str
    rationales: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rationales that each rule named."""
        named = {rule: {seed for f in self.findings if f.rule == rule for seed in f.seeds} for rule in self._rules()}
        return {rule: len(seeds) for rule, seeds in named.items()}

    @property
    def suspicious(self) -> int:
        """Rationales that at least one rule named."""
        return len({seed for finding in self.findings for seed in finding.seeds})

    def _rules(self) -> list[str]:
        return [rule for rule, _ in Counter(finding.rule for finding in self.findings).most_common()]


def review(
    finished: FinishedPool,
    template: PromptTemplate,
    settings: Review,
    *,
    base: Path = Path(),
    only: Sequence[str] = (),
) -> ReviewResult:
    """Run the rules over a finished pool.

    Parameters
    ----------
    finished : FinishedPool
        The pool.
    template : PromptTemplate
        Reads the raw answers.
    settings : config.Review
        Own rules, list of words (relative to `base`), language, and when two rationales are near duplicates.
    only : sequence of str
        Names of rules; all without any.

    Raises
    ------
    ConfigError
        There is no such rule, one of your own cannot be imported, or the list of words cannot be read.
    """
    rules = rules_of(settings, only)
    words = str(base / settings.words) if settings.words else None
    pool = ReviewedPool(
        finished.written(template),
        finished.pool.embeddings,
        tuple(finished.items["title"].drop_nulls().unique().sort()),
        settings.model_copy(update={"words": words}),
    )
    findings = [finding for rule in rules for finding in rule.find(pool)]
    return ReviewResult(finished.pool.pool_version, len(pool.rationales), ranked(findings))


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Order findings by the sum of severities of their rationale, then by their own."""
    listed = [replace(finding, severity=float(min(1.0, max(0.0, finding.severity)))) for finding in findings]
    scores: Counter[tuple[str, ...]] = Counter()
    for finding in listed:
        key = finding.seeds if len(finding.seeds) == 1 else (finding.rule, *finding.seeds)
        scores[key] += finding.severity  # type: ignore[assignment]

    def order(finding: Finding) -> tuple[Any, ...]:
        key = finding.seeds if len(finding.seeds) == 1 else (finding.rule, *finding.seeds)
        return (-scores[key], key, -finding.severity, finding.rule)

    return tuple(sorted(listed, key=order))


def rules_of(settings: Review, only: Sequence[str] = ()) -> list[Rule]:
    """Return the built-in rules and those of `review.rules`; raise `ConfigError` for one that is not there."""
    rules = [*BUILT_IN, *(_load(path) for path in settings.rules)]
    known = [rule.name for rule in rules]
    if missing := [name for name in only if name not in known]:
        raise ConfigError("there is no such rule", where="--rule", got=missing[0], expected=", ".join(known))
    return [rule for rule in rules if not only or rule.name in only]


def _load(path: str) -> Rule:
    module, _, name = path.partition(":")
    try:
        rule = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            "a rule cannot be made",
            where=f"review.rules, {path!r}",
            got=f"{type(error).__name__}: {error}",
            expected="package.module:Class, a class without arguments, importable or beside reland.toml",
        ) from error
    if not isinstance(rule, Rule):
        raise ConfigError(
            "this class is no rule",
            where=f"review.rules, {path!r}",
            got=type(rule).__name__,
            expected="a name, and find(pool) that returns Findings",
        )
    return rule
