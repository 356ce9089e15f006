"""Rules about what a rationale recommends: names the catalogue lacks, titles of the history, untouched categories."""

from __future__ import annotations

from reland_features.finished_pool import WrittenRationale


def ungrounded(rationale: WrittenRationale) -> tuple[float, str] | None:
    """Find names that are neither a title nor a category of the catalogue."""
    return _share(rationale, rationale.ungrounded, 0.8, "not in the catalogue")


def repeated(rationale: WrittenRationale) -> tuple[float, str] | None:
    """Find titles that the seed has an event with already, also earlier than the LLM was shown."""
    return _share(rationale, rationale.repeated, 0.5, "in the user's history already")


def untouched(rationale: WrittenRationale) -> tuple[float, str] | None:
    """Find categories that the seed has no event with; one may be a discovery, all of them hardly."""
    new = [name for name in rationale.categories if name not in rationale.touched]
    if not new:
        return None
    return 0.4 * len(new) / len(rationale.categories), f"{', '.join(new)}: never touched by the user"


def _share(rationale: WrittenRationale, names: tuple[str, ...], most: float, why: str) -> tuple[float, str] | None:
    if not names:
        return None
    named = len(rationale.grounded) + len(rationale.repeated) + len(rationale.ungrounded)
    return most * min(1.0, len(names) / max(1, named)), f"{'; '.join(names)}: {why}"
