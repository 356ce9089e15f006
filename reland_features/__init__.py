"""LLM recommendation rationales as Feast features: reason about a few seed users, serve every user.

Import what you need from its module; nothing heavy is imported here.
"""

__version__ = "0.1.0"
