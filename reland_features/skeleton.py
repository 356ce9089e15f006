"""Describe the shape an LLM answer must have, independent of any engine.

A skeleton is a program of three instructions. `engines.constraint` decodes it token by token; an
engine that cannot constrain its decoding ignores it and is validated after the fact.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fixed:
    """Text that is forced as it stands."""

    text: str


@dataclass(frozen=True)
class Free:
    """A slot the model fills freely; it ends at the first newline or after `max_tokens` tokens."""

    max_tokens: int
    min_tokens: int = 1


@dataclass(frozen=True)
class Choice:
    """A slot filled with one option of a named set; the answer's line ends after it.

    Parameters
    ----------
    options : str
        Name of an option set (see `Options`), for example ``"categories"``.
    banned : frozenset of str
        Options that are not offered, for example the titles of the history. An option taken by an
        earlier slot with the same `options` is not offered again.
    """

    options: str
    banned: frozenset[str] = frozenset()


Skeleton = tuple[Fixed | Free | Choice, ...]
Options = dict[str, tuple[str, ...]]
"""Option sets by name: shared by all requests of a run, so that an engine builds each trie once."""
