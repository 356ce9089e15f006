"""What every experiment shares: its options, its runs, and the files that it writes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ranking.device import chosen_device
from ranking.experiments.dataset import Dataset, load_dataset, task_of
from ranking.experiments.inputs import seed_rows
from ranking.experiments.options import shown_command
from ranking.experiments.runner import Runner
from ranking.experiments.runs import Run, RunSpec
from ranking.experiments.tables import Group, markdown
from ranking.experiments.trials import tuned
from ranking.experiments.variants import variant
from reland_features.artifacts import whole_file, write_atomically
from reland_features.errors import ConfigError

CUT = (
    "Cut users are trained on, and scored from, their last so many training interactions. Their rationales still come "
    "from the whole training part, as from a system that knows more than the ranker: this favours ReLand. Masked "
    "leaves out all that a user has seen, before the cut too: it can be no answer, and whatever knows a user's past "
    "would be led to it."
)
_MEASURED = (
    "Measured on the {kept} of {all} users ({task}) who are no seeds themselves: a rationale was written about another "
    "user's events, and whatever its writer read of those, it read none of a measured user's own."
)
_TRIALS = (
    "Each variant has its own, the best on the validation part of the same combinations of the lists in the data set's "
    "file (at most {trials}); controls take those of what they control. So a gain over the controls is measured at the "
    "variant's own best settings only, which leans towards the variant; the base has its own."
)
QUICK = "**Quick: fewer epochs and smaller losses than in the full tables. Not to be compared with the paper.**"


@dataclass(frozen=True)
class Study:
    """One experiment on one data set.

    Parameters
    ----------
    name : str
        Of the files that are written.
    options : argparse.Namespace
        The experiment's own options.
    """

    name: str
    dataset: Dataset
    runner: Runner
    options: argparse.Namespace
    command: str

    @classmethod
    def of(cls, experiment: str, options: argparse.Namespace, argv: Sequence[str]) -> Study:
        """Read the options that every experiment has; raise `ConfigError` for a wrong data set or count."""
        if options.seeds < 1 or options.jobs < 1:
            raise ConfigError("--seeds and --jobs are at least 1", got=f"{options.seeds} and {options.jobs}")
        chosen_device(options.device)
        dataset = load_dataset(options.dataset)
        if not re.fullmatch(r"\w*", options.suffix):
            raise ConfigError("--suffix is part of a file's name", got=options.suffix, expected="letters, digits, _")
        if (cut := options.cut) is not None and cut < 1:
            raise ConfigError("--keep-last takes a count", got=cut, expected="10")
        if len(f"{options.note}.".splitlines()) > 1:
            raise ConfigError(
                "--note is one line, as the command is that the page shows",
                got=repr(options.note),
                expected="as many sentences as there are, one after the other",
            )
        if options.trials is not None and options.trials < 1:
            raise ConfigError("--trials is at least 1", got=options.trials, hint="leave it out to search nothing")
        settings = [
            "quick" if options.quick else "",
            f"last{cut}" if cut else "",
            f"trials{options.trials}" if options.trials else "",
            "without_seeds" if options.without_seeds else "",
            options.suffix,
        ]
        parts = [experiment, dataset.name, options.source, *settings]
        runner = Runner(dataset, options.projects, options.results, jobs=options.jobs, device=options.device)
        return cls("_".join(filter(None, parts)), dataset, runner, options, shown_command(argv))

    def spec(self, backbone: str, name: str, **more: Any) -> RunSpec:
        """Return a spec of this data set and source."""
        options = self.options
        given = {
            "source": options.source,
            "quick": options.quick,
            "keep_last": options.cut,
            "task": task_of(backbone),
            **more,
        }
        return RunSpec(dataset=self.dataset.name, backbone=backbone, variant=name, **given)

    def measure(self, wanted: Iterable[tuple[str, RunSpec]]) -> list[Group]:
        """Run every (setting, spec) with each random seed; return the groups in the same order.

        With `--trials` each spec first gets its variant's own hyperparameters, by a search.
        """
        wanted = list(wanted)
        if self.options.trials:
            best = tuned(self.runner, [spec for _, spec in wanted], self.options.trials)
            wanted = [(setting, best.get(spec, spec)) for setting, spec in wanted]
        grouped = {
            (setting, spec): [replace(spec, seed=seed) for seed in range(self.options.seeds)]
            for setting, spec in wanted
        }
        every = [spec for specs in grouped.values() for spec in specs]
        seeds = self._seeds(every) if self.options.without_seeds else {}
        runs = self.runner.run_all(every)
        if self.options.without_seeds:
            runs = {spec: without_users(run, seeds[spec.task]) for spec, run in runs.items()}
        return [
            Group(setting, spec.variant, tuple(runs[each] for each in specs))
            for (setting, spec), specs in grouped.items()
        ]

    def _seeds(self, specs: Sequence[RunSpec]) -> dict[str, np.ndarray]:
        """Return by task the rows of the seeds of every pool that is read: all runs of a task leave out the same.

        Where no run of a task reads a pool, they are those of the project that its features come from.
        """
        seeds: dict[str, np.ndarray] = {}
        if own := sorted({spec.variant for spec in specs if variant(spec.variant).texts == "own"}):
            raise ConfigError(
                "--without-seeds leaves out everybody who has a text of their own",
                where="--variants",
                got=", ".join(own),
                hint="leave these variants out, or --without-seeds",
            )
        for task in dict.fromkeys(spec.task for spec in specs):
            of_task = [spec for spec in specs if spec.task == task]
            readers = [spec for spec in of_task if variant(spec.variant).reads_pool]
            pools = {self.runner.planner.project(spec).root for spec in readers or of_task}
            seeds[task] = np.unique(np.concatenate([seed_rows(root) for root in pools]))
        return seeds

    def publish(
        self,
        title: str,
        groups: Sequence[Group],
        sections: Sequence[tuple[str, str]],
        frame: pl.DataFrame,
        draw: Callable[[Path], None] | None = None,
    ) -> list[Path]:
        """Write the frame, the figure and the markdown, the latter last; return their paths.

        A reader sees each file as it was or as it is to be, never a part.

        Parameters
        ----------
        sections : sequence of (str, str)
            Headings and markdown.
        """
        folder = self.runner.results
        folder.mkdir(parents=True, exist_ok=True)
        data, image, text = (folder / f"{self.name}.{suffix}" for suffix in ("parquet", "png", "md"))
        with whole_file(data) as path:
            frame.write_parquet(path, compression="zstd")
        if draw:
            with whole_file(image) as path:
                draw(path)
        machines = sorted({run.facts["machine"] for group in groups for run in group.runs})
        title += f", users cut to their last {self.options.cut}" if self.options.cut else ""
        lines = [f"# {title}", "", f"`{self.command}`", "", f"Machine: {'; '.join(machines)}", ""]
        if pools := _pools([run for group in groups for run in group.runs]):
            lines += [f"Rationales: {'; '.join(pools)}", ""]
        if self.options.cut:
            lines += [CUT, ""]
        if self.options.without_seeds:
            lines += [*dict.fromkeys(_who_is_measured(group.runs[0]) for group in groups), ""]
        if self.options.quick:
            lines += [QUICK, ""]
        if self.options.note:
            lines += [self.options.note, ""]
        if self.options.trials:
            sections = [*sections, ("Hyperparameters", _hyperparameters(groups, self.options.trials))]
        for heading, body in sections:
            lines += [f"## {heading}", "", body, ""]
        if draw:
            lines += [f"![{title}]({image.name})", ""]
        write_atomically(text, "\n".join(lines).rstrip() + "\n")
        return [data, *([image] if draw else []), text]


def _hyperparameters(groups: Sequence[Group], trials: int) -> str:
    rows = []
    for group in groups:
        facts = group.runs[0].facts
        convention = facts["hyperparameters"]["fit"]["convention"]
        changes = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in facts["spec"]["overrides"])
        score = facts["best"].get(f"ndcg@10_{convention}")
        shown = "–" if score is None else f"{score:.4f} ({convention})"
        rows.append([group.setting, variant(group.variant).label, changes or "as in the data set's file", shown])
    table = markdown(["", "variant", "what differs from the data set's file", "validation NDCG@10"], rows, left=3)
    return f"{_TRIALS.format(trials=trials)}\n\n{table}"


def _pools(runs: Sequence[Run]) -> list[str]:
    """Say of each pool that was read how many seeds it has and who wrote its texts, as far as any run kept it."""
    said: dict[tuple[str, str], str] = {}
    for run in sorted(runs, key=lambda run: "pool" in run.facts):
        if version := run.facts["inputs"].get("pool_version"):
            task, pool = run.facts["spec"]["task"], run.facts.get("pool")
            said[version, task] = f"pool {version} ({task}), " + (
                f"{pool['seeds']:,} seeds by {pool['written_by']}, {pool['embedded']} embedded"
                if pool
                else "whose seeds were not counted then"
            )
    return sorted(said.values())


def without_users(run: Run, users: np.ndarray) -> Run:
    """Leave out users, rows of the split; the run says how many of those it measured they were."""
    kept = ~np.isin(run.users, users)
    return replace(run.of_users(kept), facts={**run.facts, "left_out": int((~kept).sum())})


def _who_is_measured(run: Run) -> str:
    kept = len(run.users)
    task = run.facts["spec"]["task"]
    return _MEASURED.format(kept=f"{kept:,}", all=f"{kept + run.facts['left_out']:,}", task=task)


def say_written(paths: Sequence[Path]) -> None:
    """Print where the results are."""
    for path in paths:
        print(path, file=sys.stderr)
