"""Find the folders that `reland init` copies: the dbt package and the Feast repository."""

from __future__ import annotations

import shutil
from pathlib import Path

_PACKAGE = Path(__file__).parent
_GENERATED = shutil.ignore_patterns("target", "logs", "data", "__pycache__", "*.pyc", ".user.yml")


def folder(name: str) -> Path:
    """Return the folder `dbt` or `feature_repo`: inside the wheel, or at the top of a checkout."""
    for candidate in (_PACKAGE / "_templates" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"{name}: not in the wheel and not beside the package; reinstall reland-features")


def copy(name: str, destination: Path) -> None:
    """Copy a template folder, without what tools generated in it."""
    shutil.copytree(folder(name), destination, ignore=_GENERATED)
