"""Control of the pool: what people decided about single rationales, and how it is applied."""

from __future__ import annotations

from reland_features.curation.curation import Curation, mark
from reland_features.curation.decisions import DECISIONS, Decision, read_decisions, record_decision

__all__ = ["DECISIONS", "Curation", "Decision", "mark", "read_decisions", "record_decision"]
