"""What a page of results says of its runs: its parquet and, where an older one lacks a column, its markdown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from ranking.experiments.variants import variant
from reland_features.errors import ArtifactError

_COMMAND = re.compile(r"^`(python -m ranking\.experiments .+?)`$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"(?P<backbone>\w+)(, last (?P<cut>\d+))?(?P<more>.*)")


@dataclass(frozen=True)
class Compared:
    """What a comparison is about, whatever its random seeds: two that are equal here are one comparison.

    Parameters
    ----------
    dataset, source, backbone, variant : str
        As in `RunSpec`; `source` is empty where the variant reads no rationales.
    keep_last : int, optional
        To how many interactions users are cut.
    more : str
        Whatever else sets it apart: fewer seed users, hyperparameters that were searched, what is known of newcomers.
    """

    dataset: str
    source: str
    backbone: str
    variant: str
    keep_last: int | None
    more: str


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

    def compared(self, setting: str, name: str, others: Iterable[str]) -> Compared:
        """Say what a variant's comparison is about.

        Of a page from before the specs of its runs were a column, the command and the setting say it. One that shows
        no command is a data set of its own, so that nothing of it is taken for a part of another page.

        Parameters
        ----------
        others : iterable of str
            The variants that it is compared with.
        """
        if spec := self._specs.get((setting, name)):
            overrides = [self._specs[setting, each]["overrides"] for each in (name, *others)]
            more = [f", {spec['seed_users']:.0%} of the seeds"] if spec["seed_users"] != 1 else []
            more += [f", {json.dumps(overrides)}"] if any(overrides) else []
            more += [f", newcomers after {spec['known']}"] if "known" in spec else []
            return Compared(spec["dataset"], spec["source"], spec["backbone"], name, spec["keep_last"], "".join(more))
        found = _SETTING.fullmatch(setting)
        dataset, cut, trials = (self._option(option) for option in ("--dataset", "--keep-last", "--trials"))
        if found and found["cut"]:
            cut = found["cut"]
        return Compared(
            dataset=(Path(dataset).stem if dataset.endswith(".toml") else dataset) or self.name,
            source=self._option("--source") if variant(name).reads_pool else "",
            backbone=found["backbone"] if found else setting,
            variant=name,
            keep_last=int(cut) if cut.isdigit() else None,
            more=(found["more"] if found else "") + (f", {trials} trials" if trials else ""),
        )

    @cached_property
    def _specs(self) -> dict[tuple[str, str], dict[str, Any]]:
        if "spec" not in self.frame.columns:
            return {}
        rows = self.frame.filter(pl.col("spec").is_not_null()).select("setting", "variant", "spec")
        return {(setting, name): json.loads(spec) for setting, name, spec in rows.unique().iter_rows()}

    def _option(self, name: str) -> str:
        """Return what the command gives an option; empty where it does not."""
        for word, following in pairwise([*self._words, ""]):
            option, equals, value = word.partition("=")
            if option == name:
                return value if equals else following
        return ""

    @cached_property
    def _words(self) -> list[str]:
        try:
            return shlex.split(self.shown)
        except ValueError:  # no closing quotation: somebody has written into the page
            return self.shown.split()
