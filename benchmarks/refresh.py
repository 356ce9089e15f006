r"""Measure what `reland refresh` keeps, and what `reland run` anew would: the same days, the same texts.

    reland rationales export texts.parquet --project PROJECT
    python -m benchmarks.refresh --tables DIR --name beauty --order-column pos \
        --texts texts.parquet --since 2014-06-01 --days 1,7,30 --set seeds.count=1500

A pool is made of the behaviour up to one day; later days are refreshed, and then run anew with the same random seed,
seeds drawn among the same texts, so that no LLM is asked. Nothing is held out and nothing goes online.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import machine
from benchmarks.projects import RESULTS, make_project
from reland_features.imported_texts import import_texts
from reland_features.pipeline import Run, refresh, run
from reland_features.project import Project

SETTINGS = ("feast.apply=false", "feast.materialize=false", "evaluation.holdout=0")
GROUPS = ("nothing new", "something new", "new users")


@dataclass(frozen=True)
class Published:
    """One run's features and tables, and the seconds that it took."""

    features: pl.DataFrame
    histories: dict[str, list[str]]
    texts: dict[str, np.ndarray]
    seconds: float

    @classmethod
    def of(cls, made: Run, seconds: float) -> Published:
        """Read what a run published."""
        root, marts = made.project.features, made.outcomes["prepare"].artifact
        name = f"{made.outcomes['publish'].artifact.id}.parquet"
        columns = ["user_id", "seed_user_id", "similarity", "rationale_embedding"]
        items = pl.read_parquet(root / "item_attributes" / name, columns=["item_id", "item_text_embedding"])
        histories = pl.read_parquet(marts.table("user_histories"), columns=["user_id", "item_ids"])
        return cls(
            pl.read_parquet(root / "user_rationale" / name, columns=columns),
            dict(histories.iter_rows()),
            dict(zip(items["item_id"], np.array(items["item_text_embedding"].to_list()), strict=True)),
            seconds,
        )

    def tastes(self, users: pl.Series) -> np.ndarray:
        """Return the mean item text of each user's history, at unit length, float64 [N, e]."""
        means = np.array([np.mean([self.texts[item] for item in self.histories[user]], axis=0) for user in users])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


@dataclass(frozen=True)
class Line:
    """What one group of users has, after a refresh or a run."""

    how: str
    group: str
    users: int
    matched: float
    same_seed: float | None
    same_text: float | None
    alike: float
    alike_any: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--order-column")
    parser.add_argument("--texts", type=Path, required=True, help="rationales to import")
    parser.add_argument("--since", type=datetime.fromisoformat, required=True, help="day of the pool")
    parser.add_argument("--days", default="1,7,30", help="days after that")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work"))
    parser.add_argument("--note", default="", help="printed beside the machine, such as what else was running")
    options = parser.parse_args()
    root, days = make_project(options), [int(day) for day in options.days.split(",")]
    settings = [*SETTINGS, *options.set, *imported(root, options.texts, options.since)]

    def at(day: int) -> Project:
        return Project.open(root, [*settings, f"data.as_of={(options.since + timedelta(days=day)).isoformat()}"])

    first = timed(partial(run, at(0), "publish"))
    # All days by refresh before the first by run: that makes another pool, which would be the published one.
    found = [(f"refresh, day {day}", timed(partial(refresh, at(day)))) for day in days]
    found += [(f"run, day {day}", timed(partial(run, at(day), "publish"))) for day in days]
    lines = [line for how, made in found for line in compare(how, first, made)]
    text = render(options, lines, first.seconds)
    (RESULTS / f"refresh_{options.name}.md").write_text(text)
    print(text)


def imported(root: Path, file: Path, since: datetime) -> list[str]:
    """Import the texts, read against the tables of the first day; return the settings that name them."""
    project = Project.open(root, [*SETTINGS, f"data.as_of={since.isoformat()}"])
    run(project, "prepare")
    made = import_texts(project, file, skip_unknown=True)
    return [f"rationales.{key}={value}" for key, value in made.settings(project.config.rationales.embed).items()]


def timed(work: Callable[[], Run]) -> Published:
    """Do it and read what was published."""
    started = time.perf_counter()
    made = work()
    return Published.of(made, time.perf_counter() - started)


def compare(how: str, first: Published, later: Published) -> list[Line]:
    """Measure the users who did nothing, who did something, and who are new since the first day."""
    joined = later.features.join(first.features, on="user_id", how="left", suffix="_first")
    was = pl.Series([user in first.histories for user in joined["user_id"]])
    grew = pl.Series([first.histories.get(user) != later.histories.get(user) for user in joined["user_id"]])
    seeds = later.tastes(later.features["seed_user_id"].drop_nulls().unique())
    lines = []
    for group, among in zip(GROUPS, (was & ~grew, was & grew, ~was), strict=True):
        users = joined.filter(among)
        matched = users.drop_nulls("seed_user_id")
        both = matched.drop_nulls("seed_user_id_first")
        alike = alike_any = np.nan
        if matched.height:
            tastes = later.tastes(matched["user_id"])
            alike = float((tastes * later.tastes(matched["seed_user_id"])).sum(axis=1).mean())
            alike_any = float((tastes @ seeds.mean(axis=0)).mean())
        lines.append(
            Line(
                how,
                group,
                users.height,
                matched.height / max(users.height, 1),
                float((both["seed_user_id"] == both["seed_user_id_first"]).to_numpy().mean()) if both.height else None,
                cosines(both) if both.height else None,
                alike,
                alike_any,
                later.seconds,
            )
        )
    return lines


def cosines(both: pl.DataFrame) -> float:
    """Return the mean cosine of the inherited texts' embeddings, of unit length, now and on the first day."""
    now, then = (np.array(both[name].to_list()) for name in ("rationale_embedding", "rationale_embedding_first"))
    return float((now * then).sum(axis=1).mean())


def render(options: argparse.Namespace, lines: list[Line], seconds: float) -> str:
    """Return the page."""
    order = f" --order-column {options.order_column}" if options.order_column else ""
    settings = "".join(f" --set {setting}" for setting in options.set)
    command = (
        f"python -m benchmarks.refresh --tables DIR --name {options.name}{order} --texts FILE "
        f"--since {options.since:%Y-%m-%d} --days {options.days}{settings}"
    )
    page = [
        f"# What a refresh keeps: {options.name}",
        "",
        f"`{command}`",
        "",
        f"Machine: {machine()}" + (f". {options.note}" if options.note else ""),
        "",
        f"A pool of {options.since:%Y-%m-%d} ({seconds:.0f} s); then days after it, by `reland refresh` and by "
        "`reland run` anew with the same texts and random seed. *Same seed*: of those matched on both days; *same "
        "text*: mean cosine of the rationale embeddings of both. *Alike*: mean cosine of the mean item texts of a user "
        "and of its seed; *any seed*: the same, averaged over all seeds in use.",
        "",
        "| | users | | matched | same seed | same text | alike | any seed | seconds |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        same = ["–" if value is None else f"{value:.3f}" for value in (line.same_seed, line.same_text)]
        page.append(
            f"| {line.how} | {line.users:,} | {line.group} | {line.matched:.3f} | {same[0]} | {same[1]} | "
            f"{line.alike:.3f} | {line.alike_any:.3f} | {line.seconds:.0f} |"
        )
    return "\n".join(page) + "\n"


if __name__ == "__main__":
    main()
