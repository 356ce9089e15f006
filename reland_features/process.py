"""Leave a command-line process."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End the process with an exit status, without the interpreter's teardown.

    DuckDB's Python binding, which Feast keeps alive, prints pages of "leaked instance" at teardown.
    Call it only where everything is closed: a command's last line.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
