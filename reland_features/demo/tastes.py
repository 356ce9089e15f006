"""Name the tastes that simulated users are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Archetype:
    """A taste: genres that go together, and who leans to it.

    Parameters
    ----------
    name : str
        What people with this taste would say they like.
    genres : dict of str to float
        How much each genre counts, in (0, 1].
    age_lean, gender_lean : float
        Log-odds of having this taste per standard deviation of age, and for women against men. Small on
        purpose: a profile hints at a taste, it does not tell it.
    """

    name: str
    genres: dict[str, float]
    age_lean: float = 0.0
    gender_lean: float = 0.0


ARCHETYPES = (
    Archetype("space and machines", {"Sci-Fi": 1.0, "Action": 0.5, "Adventure": 0.4}, -0.3, -0.2),
    Archetype("action and suspense", {"Action": 1.0, "Thriller": 0.8, "Crime": 0.4}, -0.2, -0.3),
    Archetype("fear", {"Horror": 1.0, "Thriller": 0.4, "Mystery": 0.3}, -0.4),
    Archetype("drawn for families", {"Animation": 1.0, "Children's": 1.0, "Musical": 0.3}, -0.1, 0.2),
    Archetype("quests and magic", {"Fantasy": 1.0, "Adventure": 0.7, "Children's": 0.3}, -0.3),
    Archetype("love stories", {"Romance": 1.0, "Drama": 0.4, "Comedy": 0.3}, 0.1, 0.3),
    Archetype("laughter", {"Comedy": 1.0, "Romance": 0.2}),
    Archetype("song and dance", {"Musical": 1.0, "Romance": 0.4, "Comedy": 0.3}, 0.2, 0.2),
    Archetype("gangsters and detectives", {"Crime": 1.0, "Film-Noir": 0.9, "Mystery": 0.7}, 0.3),
    Archetype("war and the frontier", {"War": 1.0, "Western": 1.0, "Action": 0.2}, 0.4, -0.3),
    Archetype("serious drama", {"Drama": 1.0, "War": 0.2, "Mystery": 0.2}, 0.2),
    Archetype("true stories", {"Documentary": 1.0, "Drama": 0.1}, 0.3),
)


def archetypes_for(categories: Iterable[str], limit: int = 24) -> tuple[Archetype, ...]:
    """Return the archetypes that a catalogue can satisfy.

    The built-in ones whose leading genre is among `categories`; a catalogue that has none of them gets one
    archetype per category, at most `limit`, in alphabetical order.
    """
    known = sorted(set(categories))
    fitting = tuple(a for a in ARCHETYPES if next(iter(a.genres)) in known)
    own = tuple(Archetype(f"a taste for {name}", {name: 1.0}) for name in known[:limit])
    return fitting or own or (Archetype("no particular taste", {}),)
