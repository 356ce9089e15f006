"""What a data set's TOML file may hold: a name that is misspelt would otherwise be passed over without a word."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ranking.backbones import COLLABORATIVE, FLOORS, SEQUENTIAL
from reland_features.errors import CheckError, ConfigError

_Figures = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Changes(_Table):
    """Keyword arguments of a backbone's class, and of `ranking.fitting.FitSettings`, and lists of either to search."""

    options: dict[str, Any] = {}
    fit: dict[str, Any] = {}
    search: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}


class BackboneTable(Changes):
    """A backbone's hyperparameters, and what differs for cut users and for ``--quick``."""

    cut: Changes = Changes()
    quick: Changes = Changes()


class Project(_Table):
    """Options of ``reland init`` beside the tables, and changes of `reland.toml` by dotted key."""

    init: dict[str, str] = {}
    set: dict[str, Any] = {}


class Paper(_Table):
    """Backbone → variant → HR@10 and NDCG@10 of the paper."""

    sequential: dict[str, dict[str, _Figures]] = {}
    collaborative: dict[str, dict[str, _Figures]] = {}


class Public(_Table):
    """The highest figures that others have published, in words."""

    sequential: str = ""
    collaborative: str = ""


class DatasetFile(_Table):
    """The whole file."""

    project: Project = Project()
    sources: dict[str, dict[str, Any]] = {}
    sequential: dict[str, BackboneTable] = {}
    collaborative: dict[str, BackboneTable] = {}
    paper: Paper = Paper()
    public: Public = Public()


_BACKBONES = {"sequential": SEQUENTIAL + FLOORS, "collaborative": COLLABORATIVE + FLOORS}
_TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    (): DatasetFile,
    ("project",): Project,
    ("paper",): Paper,
    ("public",): Public,
}


def read_dataset_file(path: Path) -> dict[str, Any]:
    """Return what a file holds, checked.

    Raises
    ------
    ConfigError
        It is no TOML, or something in it is not known or of a wrong type; a `CheckError` holds several.
    """
    try:
        values = tomllib.loads(path.read_text())
        DatasetFile.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the data set's file is no TOML", where=str(path), got=error) from error
    except ValidationError as error:
        problems = [_problem(detail, path) for detail in error.errors(include_url=False)]
    else:
        problems = [
            _unknown(task, name, list(known), path)
            for task, known in _BACKBONES.items()
            for name in sorted(set(values.get(task, {})) - set(known))
        ]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise CheckError(problems)
    return values


def _problem(detail: Any, path: Path) -> ConfigError:
    *above, name = (str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        model = _TABLES.get(tuple(above)) or (BackboneTable if len(above) == 2 else Changes)
        return _unknown(".".join(above), name, list(model.model_fields), path)
    return ConfigError(
        f"{'.'.join((*above, name))!r} is wrong", where=str(path), got=repr(detail["input"]), expected=detail["msg"]
    )


def _unknown(table: str, name: str, known: list[str], path: Path) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return ConfigError(
        f"{'.'.join(filter(None, (table, name)))!r} is not known",
        where=str(path),
        got=name,
        expected=", ".join(known),
        hint=f"did you mean {near[0]!r}?" if near else "",
    )
