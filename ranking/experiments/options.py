"""Options that experiments share, and how a command is shown on the page it wrote."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every experiment has; what only some have is given the value of not having it."""
    parser.add_argument("--dataset", required=True, metavar="NAME")
    parser.add_argument("--source", default="", metavar="NAME", help="where the rationales come from (default: own)")
    parser.add_argument("--projects", type=Path, default=Path("experiments"), metavar="ROOT")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1 or auto: a GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="fewer epochs, sampled softmax; said in the table")
    parser.set_defaults(
        cut=None, without_seeds=False, trials=None, seeds=1, suffix="", note="", results=Path("docs/results/ranking")
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option of experiments that keep runs, or read those that were kept."""
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: docs/results/ranking")


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of experiments that write a page."""
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="random seeds of each run")
    parser.add_argument(
        "--suffix", default="", metavar="NAME", help="of the files' names: a second table beside the first"
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="printed above the table")


def add_cut(parser: argparse.ArgumentParser) -> None:
    """Add the option of experiments that may run on cut users."""
    parser.add_argument(
        "--keep-last", dest="cut", type=int, metavar="N", help="train on each user's last N interactions only"
    )


def add_trials(parser: argparse.ArgumentParser) -> None:
    """Add the option of experiments that may search each variant's hyperparameters."""
    parser.add_argument(
        "--trials", type=int, metavar="N", help="search each variant's hyperparameters first, N combinations each"
    )


def add_without_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the option of experiments whose texts may come from a system that read the users' held-out events."""
    parser.add_argument(
        "--without-seeds", action="store_true", help="measure only users who are no seeds: nobody's own text is theirs"
    )


def add_names(parser: argparse.ArgumentParser, option: str, default: str, what: str = "") -> None:
    """Add an option that takes names separated by commas; `what` they are is said before the default."""
    said = f"{what}; default: {default}" if what else f"default: {default}"
    parser.add_argument(option, type=names, default=names(default), metavar="A,B", help=said)


def names(text: str) -> tuple[str, ...]:
    """Split names at commas; argparse shows the error."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("at least one name is expected")
    return found


def shown_command(argv: Sequence[str]) -> str:
    """Return the command as it may be published: a folder of this machine is shown as DIR, a TOML file by its name."""
    return shlex.join(["python", "-m", "ranking.experiments", *map(shown_word, argv)])


def shown_word(word: str) -> str:
    """Return one word of a command so; see `shown_command`."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={shown_word(value)}"
    path = Path(word)
    if not path.is_absolute():
        return word
    return path.name if path.suffix == ".toml" else "DIR"
