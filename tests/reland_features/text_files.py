"""Texts of another system, and files of them."""

from __future__ import annotations

import json
from pathlib import Path

from reland_features.prompts import PromptTemplate

TEMPLATE = PromptTemplate.load("movies")
PROSE = "They like slow films. From *2001: A Space Odyssey* to *Heat*, genres such as: drama, war."
BOTH = "Step 1: You like war films.\nStep 2:\nCategories:\n1. War\nMovies:\n1. Film four\n2. Nowhere to be found"


def jsonl(path: Path, *rows: object) -> Path:
    """Write rows, or lines as they are; return the path."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path
