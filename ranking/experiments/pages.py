"""What a page of results says of its runs: its parquet and, where an older one lacks a column, its markdown."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from reland_features.errors import ArtifactError

_COMMAND = re.compile(r"^`(python -m ranking\.experiments .+?)`$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One page that an experiment wrote.

    Parameters
    ----------
    path : Path
        Its parquet; the markdown stands beside it.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of its files, without a suffix."""
        return self.path.stem

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The figures and differences, see `tables`; raise `ArtifactError` where the file cannot be read."""
        try:
            return pl.read_parquet(self.path)
        except pl.exceptions.PolarsError as error:
            raise ArtifactError(
                "the parquet of a page cannot be read",
                where=str(self.path),
                got=error,
                expected="a whole file, as its experiment writes it",
                hint=f"{self.command}, which reads the runs that are there and writes the page anew",
            ) from error

    @cached_property
    def shown(self) -> str:
        """The command that the markdown shows; empty without one. A note of several lines is part of it."""
        markdown = self.path.with_suffix(".md")
        found = _COMMAND.search(markdown.read_text()) if markdown.is_file() else None
        return found[1] if found else ""

    @property
    def command(self) -> str:
        """The command that makes the page or, where the markdown shows none, the beginning of it."""
        experiment, _, rest = self.name.partition("_")
        dataset = rest.partition("_")[0] or "NAME"
        return self.shown or f"python -m ranking.experiments {experiment} --dataset {dataset}"

    @property
    def is_quick(self) -> bool:
        """Whether its runs had the quick hyperparameters."""
        return bool(self.frame["quick"].any())

    @property
    def is_without_seeds(self) -> bool:
        """Whether only users who are no seeds were measured; pages from before it was a column show the option."""
        if "without_seeds" in self.frame.columns:
            return bool(self.frame["without_seeds"].any())
        return "--without-seeds" in self._words

    @property
    def _words(self) -> list[str]:
        try:
            return shlex.split(self.shown)
        except ValueError:  # no closing quotation: somebody has written into the page
            return self.shown.split()
