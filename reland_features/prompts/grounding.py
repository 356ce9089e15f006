"""Ground the entries of a list: which name that a finder knows does a line of an LLM hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_NUMBER = re.compile(r"(?:^|(?<=\s))\[?(\d{1,2})[.)]\s+")
_BULLET = re.compile(r"^\s*(?:[-*•·–+>]\s+)?(?:\[?\d{1,3}[.):]\s+)?")
_OWN_NUMBER = re.compile(r"\d{1,3}[.)](?=\s)")
_PARENTHESES = re.compile(r"\s*[(\[][^()\[\]]*[)\]][\s.,;]*$")
_EDGES = " \t.,;:!\"'“”‘’«»*_[]"


def entries(section: str) -> Iterator[str]:
    """Yield the list entries of a section: lines, and numbers in sequence within a line."""
    for line in section.splitlines():
        starts, expected = [0], None
        for match in _NUMBER.finditer(line):
            number = int(match[1])
            if number == expected or (expected is None and (number == 1 or not line[: match.start()].strip())):
                starts.append(match.start())
                expected = number + 1
        for start, end in zip(starts, [*starts[1:], len(line)], strict=True):
            if entry := line[start:end].strip():
                yield entry


Finder = Callable[[str], tuple[str, ...] | None]
"""Names a text refers to; empty if it refers to something banned, None if to nothing."""


def ground_all(section: str, find: Finder, missed: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the names that each entry of a section refers to, as `ground` does."""
    for line in section.splitlines():
        # A line of JSON is a name as it stands, and a number in it is no entry of a list: "Der 1. April".
        if name := _literal(line.strip(), find):
            yield name
        else:
            yield from (ground(entry, find, missed) for entry in entries(line))


def ground(entry: str, find: Finder, missed: list[str]) -> tuple[str, ...]:
    """Return the names an entry refers to; a name that nothing is found for goes into `missed`."""
    if name := _literal(entry, find):
        return name
    is_known = False
    for variant in _variants(entry):
        found = find(variant)
        if found:
            return found
        is_known = is_known or found is not None
    if is_known:
        return ()
    names = _split_list(_BULLET.sub("", entry).strip(_EDGES), find)
    if not names and (bare := _BULLET.sub("", entry).strip(_EDGES)) and len(bare) < 120:
        missed.append(bare)
    return names


def _literal(text: str, find: Finder) -> tuple[str, ...]:
    """Return the name that a text is as a whole. A number before it is its own only where the name has it too.

    "8. Mai 1945" is a title; "3. Idiots", of a catalogue with "3 Idiots" and "Idiots", is the third of a list.
    """
    number = _OWN_NUMBER.match(text)
    found = find(text) or ()
    return () if number and found and not found[0].lstrip().startswith(number[0]) else found


def _variants(entry: str) -> Iterator[str]:
    """Yield what may be the name in an entry, the most literal first."""
    numbered = re.sub(r"^\s*\[?\d{1,3}[.)]\s+", "", entry).strip()
    yield numbered
    bare = _BULLET.sub("", entry).strip(_EDGES)
    yield bare
    while (shorter := _PARENTHESES.sub("", bare).strip(_EDGES)) != bare and shorter:
        yield shorter
        bare = shorter
    yield from (name.strip() for name in re.findall(r"[\"“«]([^\"“”«»]+)[\"”»]", entry))
    for part in re.split(r"\s+[-–—]+\s+|(?<=[)\"”])\s*[:,-]\s+|\s+\bby\b\s+", _BULLET.sub("", entry)):
        part = part.strip(_EDGES)
        yield part
        while (shorter := _PARENTHESES.sub("", part).strip(_EDGES)) != part and shorter:
            yield shorter
            part = shorter
    if ":" in entry:  # "Drama: because ..." is a category with a remark; a title before a colon is a guess too far
        head, _, tail = _BULLET.sub("", entry).partition(":")
        if len(tail.split()) > 4 or not tail.strip():
            yield head.strip(_EDGES)


def _split_list(text: str, find: Finder, longest: int = 5) -> tuple[str, ...]:
    """Read a comma-separated list whose names may hold commas: the longest name that is known wins."""
    pieces = [piece for piece in re.split(r"\s*[,;/]\s*|\s+and\s+(?=\w+$)", text) if piece]
    if len(pieces) < 2:
        return ()
    names: list[str] = []
    at = 0
    while at < len(pieces):
        for end in range(min(len(pieces), at + longest), at, -1):
            name = ", ".join(pieces[at:end]).strip(_EDGES)
            found = find(name)
            if found is None and (last := re.sub(r"(?i)^(?:and|or)\s+", "", name)) != name:
                found = find(last)
            if found is None and (bare := _PARENTHESES.sub("", name).strip(_EDGES)) not in {"", name}:
                found = find(bare)
            if found is not None:
                names.extend(found)
                at = end
                break
        else:
            at += 1
    return tuple(names)
