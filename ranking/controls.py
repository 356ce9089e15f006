"""The names of what is compared with a ranker without rationales, wherever a gain is measured."""

RATIONALES = "with rationales"

SHUFFLED = "rationales shuffled"
"""Rationales dealt out to other users: what the presence of a rationale gives by itself."""

CONSTANT = "rationale constant"
"""The same rationale for everybody who has one: what a text gives that says nothing of the user."""

MEAN_TEXT = "mean item text, no LLM"
"""The mean of the item texts of a user's history in the rationale's place: what a text gives that no LLM wrote."""

BOTH = "rationales and mean text"
"""Both at once: what an LLM's text adds to one that costs nothing."""
