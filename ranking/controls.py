"""The names of what is compared with a ranker without rationales, wherever a gain is measured."""

RATIONALES = "with rationales"

SHUFFLED = "rationales shuffled"
"""Rationales dealt out to other users: what the presence of a rationale gives by itself."""

CONSTANT = "rationale constant"
"""The same rationale for everybody who has one: what a text gives that says nothing of the user."""

MATCH = "match without a text"
"""Similarity and cluster of the match, and no text at all: what it gives to be told whom a user is like."""

SEED_TEXT = "seed's mean text, no LLM"
"""The mean of the item texts of the matched seed's history: what the match gives, without what the LLM wrote."""

MEAN_TEXT = "mean item text, no LLM"
"""The mean of the item texts of a user's own history: what a text gives that costs no call."""


def with_mean_text(name: str) -> str:
    """Return the name of a ranker that has the mean item text beside something else."""
    return f"{name} + mean text"
