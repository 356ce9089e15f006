"""Make the projects that experiments read: real dbt, LLM and Feast, by the `reland` command.

A project of another source starts from what the data set's own project has made: what the source does not change,
the behaviour vectors above all, is then the same, and an answer that is already there is not paid for again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date, time
from pathlib import Path
from typing import Any

from ranking.experiments import toml
from ranking.experiments.dataset import TASKS, Dataset, load_dataset
from ranking.experiments.options import add_names
from reland_features.artifacts import file_id, whole_folder, write_atomically
from reland_features.config import CONFIG_FILE, assignment, load, parse
from reland_features.errors import ConfigError, RelandError
from reland_features.imported_texts import id_of_texts
from reland_features.project import Project
from reland_features.source_tables import locations

SUMMARY = "make the projects of a data set: split, marts, rationales, features in Feast"
PROMPTS = Path(__file__).parent / "prompts"
TABLES = ("interactions", "items", "users")
_INHERITED = ("marts", "behavior_vectors", "seed_users", "rationales")
_OF_THE_IMPORT = ("rationales.engine", "rationales.model")
# The paper's section 4.1. Experiments measure rankers themselves, so the project runs no evaluation of its own.
_ALL: dict[str, Any] = {"data.user_k_core": 5, "data.item_k_core": 5, "evaluation.command": []}
_TASK: dict[str, dict[str, Any]] = {
    "sequential": {"evaluation.holdout": 2},
    "collaborative": {"evaluation.holdout": 2, "evaluation.test_fraction": 0.1},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--dataset", required=True, metavar="NAME")
    parser.add_argument("--tables", type=Path, required=True, metavar="DIR", help="interactions, items, users.parquet")
    parser.add_argument("--projects", type=Path, default=Path("experiments"), metavar="ROOT")
    parser.add_argument("--source", default="", metavar="NAME", help="another source of rationales, see the TOML file")
    parser.add_argument("--rationales", type=Path, metavar="FILE", help="texts of another system, for a --source")
    parser.add_argument("--rationales-model", metavar="NAME", help="who wrote them, if the file does not say")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for reland run")
    add_names(parser, "--tasks", ",".join(TASKS))


def prepare(options: argparse.Namespace) -> list[Path]:
    """Make what is missing; return the project folders.

    Raises
    ------
    RelandError
        A name or a table is wrong, or a project is there with other settings, tables or texts: before anything
        is run. Or the `reland` command failed, which has then said why.
    """
    dataset = load_dataset(options.dataset)
    if unknown := sorted(set(options.tasks) - set(TASKS)):
        raise ConfigError("no such task", where="--tasks", got=", ".join(unknown), expected=", ".join(TASKS))
    if missing := [t for t in ("interactions", "items") if not (options.tables / f"{t}.parquet").is_file()]:
        raise ConfigError("a table is not there", where=str(options.tables), got=f"no {missing[0]}.parquet")
    if options.rationales and not options.rationales.is_file():
        raise ConfigError("there is no such file", where="--rationales", got=options.rationales)
    if options.rationales and not options.source:
        raise ConfigError(
            "texts of another system need a name for what is made of them",
            where="--source",
            got="none",
            hint=f"--rationales {options.rationales} --source strong",
        )
    wanted = {
        options.projects / dataset.name / "-".join(filter(None, (task, options.source))): settings(
            dataset, task, options.source, options.set, imported=options.rationales is not None
        )
        for task in options.tasks
    }
    for root, changes in wanted.items():
        if (root / CONFIG_FILE).is_file():
            _check_same(root, changes)
            _check_same_files(root, options, changes)
    for root, changes in wanted.items():
        if not (root / CONFIG_FILE).is_file():
            own = root.with_name(root.name.removesuffix(f"-{options.source}"))
            _init(root, dataset, options, changes, own if options.source else None)
        if (root / ".reland" / "current.json").is_file():
            print(f"{root}: finished before", file=sys.stderr)
        else:
            _reland("run", "--project", str(root))
    return list(wanted)


def settings(
    dataset: Dataset, task: str, source: str, more: Sequence[str] = (), *, imported: bool = False
) -> dict[str, Any]:
    """Return the changes of `reland.toml`, by dotted key, as values that JSON knows: dates are text.

    An imported source may have any name; its engine and model are the import's, whatever is set here.

    Raises
    ------
    ConfigError
        The data set's file does not know the source.
    """
    if source and not imported and source not in dataset.sources:
        raise ConfigError(
            "no such source of rationales",
            where="--source",
            got=source,
            expected=", ".join(dataset.sources) or f"a table [sources.NAME] in {dataset.name}.toml",
            hint="--rationales FILE, to bring texts of another system under this name",
        )
    changes = {**_ALL, **dataset.settings, **_TASK[task], **dataset.sources.get(source, {})}
    changes |= dict(assignment(setting, "--set", "seeds.fraction=0.02") for setting in more)
    return {key: _plain(value) for key, value in changes.items() if not (imported and key in _OF_THE_IMPORT)}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, date | time):
        return value.isoformat()
    return value.replace("{prompts}", str(PROMPTS)) if isinstance(value, str) else value


def _init(
    root: Path, dataset: Dataset, options: argparse.Namespace, changes: Mapping[str, Any], own: Path | None
) -> None:
    sources = [part for name, path in _tables(options).items() for part in (f"--{name}", str(path))]
    extra = [part for name, value in dataset.init.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    # Whole or not at all: a killed `prepare` leaves no project with half of its settings.
    with whole_folder(root) as made:
        _reland("init", str(made), *sources, *extra)
        _change(made / CONFIG_FILE, changes)
        if own and (own / ".reland" / "current.json").is_file():
            _inherit(Project(own, load(own)), Project(made, load(made)))
        if options.rationales:
            model = ["--model", options.rationales_model] if options.rationales_model else []
            texts = _reland("rationales", "import", str(options.rationales), "--project", str(made), *model, "--json")
            proposed = {f"rationales.{key}": value for key, value in json.loads(texts)["settings"].items()}
            _change(made / CONFIG_FILE, {key: value for key, value in proposed.items() if key not in changes})


def _tables(options: argparse.Namespace) -> dict[str, Path]:
    found = {name: (options.tables / f"{name}.parquet").resolve() for name in TABLES}
    return {name: path for name, path in found.items() if path.is_file()}


def _inherit(own: Project, new: Project) -> None:
    """Copy the artifacts from which a pool is made, and the ledger, whose last answers may still be beside its file."""
    for kind in _INHERITED:
        if (made := own.artifacts.root / kind).is_dir():
            shutil.copytree(made, new.artifacts.root / kind)
    new.ledger.parent.mkdir(parents=True, exist_ok=True)
    if own.ledger.is_file():
        with closing(sqlite3.connect(own.ledger)) as source, closing(sqlite3.connect(new.ledger)) as copy:
            source.backup(copy)


def _change(path: Path, changes: Mapping[str, Any]) -> None:
    values = tomllib.loads(path.read_text())
    for key, value in changes.items():
        *tables_of_key, last = key.split(".")
        table = values
        for name in tables_of_key:
            table = table.setdefault(name, {})
        table[last] = value
    parse(values, where=str(path))
    write_atomically(path, toml.dumps(values))


def _check_same(root: Path, changes: Mapping[str, Any]) -> None:
    values = tomllib.loads((root / CONFIG_FILE).read_text())
    for key, value in changes.items():
        held: Any = values
        for name in key.split("."):
            held = held.get(name) if isinstance(held, dict) else None
        if held != value:
            raise _made_with_another(key, root, held, value, "give the --set it was made with")


def _check_same_files(root: Path, options: argparse.Namespace, changes: Mapping[str, Any]) -> None:
    """Compare the tables by path, then by content, and the texts by content: a file may have been moved."""
    project = Project(root, load(root))
    held, given = locations(project.config, root), _tables(options)
    for name in TABLES:
        old, new = held.get(name), given.get(name)
        if f"data.{name}" not in changes and not _same_file(Path(old) if old else None, new):
            hint = f"give the --tables it was made with; if they were moved, change data.{name}"
            raise _made_with_another(f"data.{name}", root, old, new, hint)
    if options.rationales:
        model, texts = project.config.rationales.model, options.rationales
        if (wanted := id_of_texts(project, texts, model=options.rationales_model)) != model:
            hint = "give the --rationales and --rationales-model it was made with, or a new --source"
            raise _made_with_another("rationales.model", root, model, f"{wanted}, of {texts}", hint)


def _same_file(old: Path | None, new: Path | None) -> bool:
    if old is None or new is None:
        return old is new
    return old.resolve() == new or (old.is_file() and file_id(old) == file_id(new))


def _made_with_another(key: str, root: Path, held: object, wanted: object, hint: str) -> ConfigError:
    return ConfigError(
        f"this project was made with another {key}",
        where=str(root / CONFIG_FILE),
        got=held,
        expected=wanted,
        hint=f"{hint}, or choose another --projects",
    )


def _reland(*arguments: str) -> str:
    """Run the command, its log on stderr; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "reland_features", *arguments], check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RelandError(
            f"reland {arguments[0]} did not finish",
            where=" ".join(arguments),
            got=f"status {done.returncode}",
            hint="the message above says why; the same command resumes",
        )
    return done.stdout
