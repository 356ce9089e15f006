"""Read what is particular to a data set: its project, its hyperparameters, the paper's figures for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ranking.backbones import COLLABORATIVE, FLOORS, SEQUENTIAL
from ranking.experiments.dataset_file import read_dataset_file
from ranking.fitting import FitSettings
from reland_features.errors import ConfigError

Task = Literal["sequential", "collaborative"]
TASKS: tuple[Task, ...] = ("sequential", "collaborative")
BACKBONES: Mapping[Task, tuple[str, ...]] = {
    "sequential": SEQUENTIAL + FLOORS,
    "collaborative": COLLABORATIVE + FLOORS,
}
_FOLDER = Path(__file__).parent / "datasets"


@dataclass(frozen=True)
class Hyperparameters:
    """Keyword arguments of a backbone's class, and how it is trained."""

    options: Mapping[str, Any]
    fit: FitSettings

    def as_dict(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {"options": dict(self.options), "fit": self.fit.as_dict()}


@dataclass(frozen=True)
class Dataset:
    """One TOML file of `datasets/`.

    Parameters
    ----------
    name : str
        The file's name.
    init : mapping
        Options of ``reland init`` beside the tables.
    settings : mapping
        Changes of `reland.toml`, by dotted key.
    sources : mapping
        More changes of `reland.toml`, by the name of another source of rationales.
    backbones : mapping
        Task → backbone → ``options``, ``fit`` and ``search`` (lists), and ``cut`` and ``quick`` (the same three again).
    paper : mapping
        Task → backbone → variant → (HR@10, NDCG@10) of the paper's Table 2.
    public : mapping
        Task → the highest figures that others have published, in words.
    given : str
        What `--dataset` was: the name, or the path of the file. A command that is printed repeats it.
    """

    name: str
    init: Mapping[str, str]
    settings: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, Any]]
    backbones: Mapping[str, Mapping[str, Any]]
    paper: Mapping[str, Any]
    public: Mapping[str, str]
    given: str = ""

    def hyperparameters(
        self,
        task: str,
        backbone: str,
        *,
        cut: bool = False,
        quick: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> Hyperparameters:
        """Return a backbone's hyperparameters: the file's, then those for cut users, then quick ones, then overrides.

        Parameters
        ----------
        cut : bool
            Whether users are cut to their last events: an epoch has then fewer steps.
        overrides : mapping, optional
            By ``options.<name>`` or ``fit.<name>``.

        Raises
        ------
        ConfigError
            An override names neither, or a training setting does not exist.
        """
        first, *changes = self._tables(task, backbone, cut, quick)
        values = {part: dict(first.get(part, {})) for part in ("options", "fit")}
        for table in changes:
            for part in values:
                values[part] |= table.get(part, {})
        for key, value in (overrides or {}).items():
            part, _, name = key.partition(".")
            if part not in values or not name:
                raise ConfigError(
                    "a hyperparameter has no such name", where=self.name, got=key, expected="options.NAME or fit.NAME"
                )
            values[part][name] = value
        known = {field.name for field in fields(FitSettings)}
        if unknown := sorted(set(values["fit"]) - known):
            raise ConfigError(
                "a training setting has no such name",
                where=f"{self.name}.toml, {task}.{backbone}",
                got=", ".join(unknown),
                expected=", ".join(sorted(known)),
            )
        return Hyperparameters(values["options"], FitSettings(**values["fit"]))

    def search_space(self, task: str, backbone: str, *, cut: bool = False, quick: bool = False) -> dict[str, list[Any]]:
        """Return the lists to search, by ``options.<name>`` or ``fit.<name>``.

        What is particular to cut users or to a quick training has lists of its own, or else leaves out those of what
        it sets: a list of epochs was made for the schedule that stands beside it, not for another one.
        """
        first, *changes = self._tables(task, backbone, cut, quick)
        space = dict(first.get("search", {}))
        for table in changes:
            held = {f"{part}.{name}" for part in ("options", "fit") for name in table.get(part, {})}
            space = dict(table.get("search") or {key: values for key, values in space.items() if key not in held})
        return space

    def _tables(self, task: str, backbone: str, cut: bool, quick: bool) -> list[Mapping[str, Any]]:
        """Return a backbone's tables, a later one before an earlier one."""
        table = self.backbones[task].get(backbone, {})
        return [table, *(table.get(name, {}) for name, is_asked in (("cut", cut), ("quick", quick)) if is_asked)]

    def reference(self, task: str, backbone: str, variant: str) -> tuple[float, float] | None:
        """Return the paper's HR@10 and NDCG@10, where it has them."""
        found = self.paper.get(task, {}).get(backbone, {}).get(variant)
        return (found[0], found[1]) if found else None


def dataset_names(folder: Path = _FOLDER) -> list[str]:
    """Return the names of the files of `datasets/`."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_dataset(name: str, folder: Path = _FOLDER) -> Dataset:
    """Read a data set by its name, or from the path of a TOML file of the same form.

    Raises
    ------
    ConfigError
        There is no such file, or something in it is not known or of a wrong type.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            "no such data set",
            where="--dataset",
            got=name,
            expected=f"one of {', '.join(dataset_names(folder))}, or the path of a TOML file like theirs",
        )
    values = read_dataset_file(path)
    project = values.get("project", {})
    return Dataset(
        name=path.stem,
        init=project.get("init", {}),
        settings=project.get("set", {}),
        sources=values.get("sources", {}),
        backbones={task: values.get(task, {}) for task in TASKS},
        paper=values.get("paper", {}),
        public=values.get("public", {}),
        given=name,
    )


def task_of(backbone: str) -> Task:
    """Return the task that the paper measures a backbone on; raise `ConfigError` for an unknown one."""
    for task in TASKS:
        if backbone in BACKBONES[task]:
            return task
    raise ConfigError("no such backbone", got=backbone, expected=", ".join(SEQUENTIAL + COLLABORATIVE + FLOORS))
