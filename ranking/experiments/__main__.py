"""The command line: ``python -m ranking.experiments COMMAND --dataset D``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from ranking.experiments import (
    ablation,
    case,
    curves,
    match_or_text,
    newcomers,
    next_pool,
    prepare,
    search,
    seeds,
    segments,
    summary,
    table2,
    table3,
    where,
)
from ranking.experiments.options import add_options, add_page_options, add_results
from ranking.experiments.study import Study, say_written
from reland_features.errors import RelandError
from reland_features.process import leave

EXPERIMENTS: dict[str, ModuleType] = {
    "table2": table2,
    "table3": table3,
    "ablation": ablation,
    "seeds": seeds,
    "curves": curves,
    "segments": segments,
    "case": case,
    "where": where,
    "match_or_text": match_or_text,
    "newcomers": newcomers,
    "next_pool": next_pool,
    "search": search,
}
_PRINTS_ONLY = ("case", "search")  # no page: nothing to name, and one run of each model


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(argv)
    try:
        if options.command == "prepare":
            say_written(prepare.prepare(options))
        elif options.command == "summary":
            say_written(summary.summarise(options))
        else:
            say_written(EXPERIMENTS[options.command].run(Study.of(options.command, options, argv)))
    except RelandError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"\nerror: {error}\nfinished runs are kept, the same command resumes", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; finished runs are kept, the same command resumes", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ranking.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare.add_options(commands.add_parser("prepare", help=prepare.SUMMARY, description=prepare.SUMMARY))
    summary.add_options(commands.add_parser("summary", help=summary.SUMMARY, description=summary.SUMMARY))
    for name, module in EXPERIMENTS.items():
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        add_options(command)
        if name != "search":  # its runs are measured on the validation part and kept beside the projects
            add_results(command)
        if name not in _PRINTS_ONLY:
            add_page_options(command)
        module.add_options(command)
    return parser


if __name__ == "__main__":
    leave(main())
