"""Every error this package raises on purpose, as one tree.

::

    RelandError
    ├── ConfigError            reland.toml or --set: unknown key, wrong value
    ├── TableError             a source table: missing file or column, wrong type, bad keys or times
    ├── CheckError             all problems that `reland check` found, at once
    ├── ArtifactError          a run folder that is missing, broken or in use
    ├── ModelNotFoundError     model weights that are in none of the places looked at
    ├── EngineError            one LLM call that failed
    │   ├── BudgetExceededError    the next batch would pass the budget
    │   └── TooManyFailuresError   more failed or invalid rationales than allowed
    ├── PoolError              the reasoning pool
    │   ├── EncoderMismatchError   vectors of another encoder than the pool's
    │   └── PoolInUseError         the Milvus file is open in another process
    ├── FeatureStoreError      published features or the Feast store are stale or incomplete
    └── TrainingFrameError     a Feast join that lost, added or reordered rows
"""

from __future__ import annotations

from collections.abc import Sequence


class RelandError(Exception):
    """Say what happened, where, what was there, what was expected and what to type next.

    Parameters
    ----------
    what : str
        One sentence, no full stop needed.
    where, got, expected, hint : str, optional
        `hint` is what to type next. Empty parts are left out of the message.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        got: object = "",
        expected: object = "",
        hint: str = "",
    ) -> None:
        self.what, self.where, self.hint = what, where, hint
        self.got, self.expected = str(got), str(expected)
        super().__init__(what)

    def __str__(self) -> str:
        parts = [("where", self.where), ("got", self.got), ("expected", self.expected), ("next", self.hint)]
        return "\n".join([self.what, *(f"  {label + ':':<10}{text}" for label, text in parts if text)])

    def as_dict(self) -> dict[str, str]:
        """Return the message as a flat mapping for `--json` output."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "got": self.got,
            "expected": self.expected,
            "next": self.hint,
        }


class ConfigError(RelandError):
    """A key or value of the configuration is wrong."""


class TableError(RelandError):
    """A source table cannot be used as it is."""


class ArtifactError(RelandError):
    """A run folder is missing, broken or in use."""


class ModelNotFoundError(RelandError):
    """Model weights are in none of the places looked at."""


class EngineError(RelandError):
    """One LLM call failed."""


class BudgetExceededError(EngineError):
    """The next batch of LLM calls would pass the budget."""


class TooManyFailuresError(EngineError):
    """More rationales failed or are invalid than `rationales.max_failed_fraction` allows."""


class PoolError(RelandError):
    """The reasoning pool cannot be built, read or promoted."""


class EncoderMismatchError(PoolError):
    """Behaviour vectors were made by another encoder than the pool's seed vectors."""


class PoolInUseError(PoolError):
    """The Milvus Lite file is open in another process."""


class FeatureStoreError(RelandError):
    """Published features or the Feast store are stale or incomplete."""


class TrainingFrameError(RelandError):
    """A Feast join lost, added or reordered rows."""


class CheckError(RelandError):
    """Carry all problems found by one check.

    Parameters
    ----------
    problems : sequence of RelandError
        At least one.
    """

    def __init__(self, problems: Sequence[RelandError]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)} found")

    def __str__(self) -> str:
        return "\n\n".join([self.what, *(f"{n}. {problem}" for n, problem in enumerate(self.problems, 1))])

    def as_dict(self) -> dict[str, object]:  # type: ignore[override]
        """Return every problem as a mapping."""
        return {"error": type(self).__name__, "what": self.what, "problems": [p.as_dict() for p in self.problems]}
