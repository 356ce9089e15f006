"""Control of the pool: what people decided about single rationales, and how it is applied."""

from __future__ import annotations

from reland_features.curation.curation import Curation, cover_users, mark
from reland_features.curation.decisions import DECISIONS, Decision, read_decisions, record_decision

__all__ = ["DECISIONS", "Curation", "Decision", "cover_users", "mark", "read_decisions", "record_decision"]
