"""What a rule of the review is: it reads all rationales of a pool and says which are suspicious, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from reland_features.config import Review
from reland_features.finished_pool import WrittenRationale


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Parameters
    ----------
    rule : str
        Name of the rule.
    seeds : tuple of str
        Whose rationale; several where it is about what they share.
    severity : float
        0 (look at it some day) to 1 (must not be served).
    evidence : str
        What a person needs to see to decide.
    """

    rule: str
    seeds: tuple[str, ...]
    severity: float
    evidence: str


@dataclass(frozen=True, eq=False)
class ReviewedPool:
    """What rules look at.

    Parameters
    ----------
    rationales : tuple of WrittenRationale
        Ascending by seed.
    embeddings : numpy.ndarray
        Of the rationales in their order, float32 [S, e].
    titles : tuple of str
        All titles of the catalogue.
    settings : config.Review
        `[review]` of the configuration.
    """

    rationales: tuple[WrittenRationale, ...]
    embeddings: npt.NDArray[np.float32]
    titles: tuple[str, ...] = ()
    settings: Review = field(default_factory=Review)

    @cached_property
    def own_words(self) -> tuple[str, ...]:
        """What each rationale says in words of its own: Step 1, and names that the catalogue does not have."""
        return tuple(" ".join([each.summary, *each.ungrounded]) for each in self.rationales)


@runtime_checkable
class Rule(Protocol):
    """A rule of your own is a class without arguments, named in `review.rules` as ``package.module:Class``."""

    @property
    def name(self) -> str:
        """Stands in every finding, and is what `--rule` takes."""
        ...

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return what is suspicious in a pool."""
        ...


@dataclass(frozen=True)
class EachRationale:
    """A rule that looks at one rationale at a time.

    Parameters
    ----------
    name : str
        Stands in every finding.
    look : callable
        Takes a rationale and returns (severity, evidence), or None where nothing is wrong.
    """

    name: str
    look: Callable[[WrittenRationale], tuple[float, str] | None]

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return a finding for each rationale that something is wrong with."""
        for rationale in pool.rationales:
            if found := self.look(rationale):
                yield Finding(self.name, (rationale.seed_user_id,), *found)
