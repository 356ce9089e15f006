"""Options that commands share."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from reland_features.errors import ConfigError

ProjectDir = Annotated[Path, typer.Option("--project", "-C", help="Project folder.", show_default="this folder")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="Use behaviour up to this instant (ISO, UTC).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def group(summary: str) -> typer.Typer:
    """Return an empty group of commands."""
    return typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None)


def say(text: str) -> None:
    """Print for people: on stderr, so that stdout is for `--json` alone."""
    print(text, file=sys.stderr)


def author_or_user(author: str | None) -> str:
    """Return who decides: who is named, or else the user of this computer.

    Raises
    ------
    ConfigError
        No one is named and this user has no name: in a container under a number of its own (``docker --user``,
        OpenShift).
    """
    if author:
        return author
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # an OSError from Python 3.13 on
        raise ConfigError(
            "it is not known who decides: the user of this computer has no name",
            where="--author",
            got=error,
            hint='--author "your name"',
        ) from error
