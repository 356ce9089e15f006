"""Leave a command-line process."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End the process with an exit status, without what libraries print while the interpreter is torn down.

    DuckDB's Python binding, which Feast keeps alive, prints pages of "leaked instance" to stderr then.
    Call it only as a command's last line: every error must have been printed.
    """
    logging.shutdown()
    silence_teardown()
    sys.exit(status)


def silence_teardown() -> None:
    """Send whatever is still written to stderr, by C libraries too, nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
