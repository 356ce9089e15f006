"""Prompts: Step 0 condenses what is shown, Steps 1 and 2 ask, and the answer is read back (section 3.1.2)."""

from __future__ import annotations

from reland_features.prompts.catalogue import Catalogue
from reland_features.prompts.condensing import Condensing
from reland_features.prompts.parsing import AnswerReader, ParsedRationale
from reland_features.prompts.template import Example, Message, PromptTemplate, rationale_text, step2_text
from reland_features.prompts.text import HistoryItem, Step0

__all__ = [
    "AnswerReader",
    "Catalogue",
    "Condensing",
    "Example",
    "HistoryItem",
    "Message",
    "ParsedRationale",
    "PromptTemplate",
    "Step0",
    "rationale_text",
    "step2_text",
]
