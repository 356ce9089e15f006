"""Draw one chunk of simulated users as arrays; every step is vectorised over users or events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from reland_features.demo.tastes import Archetype, archetypes_for

ERAS = ("any", "classics", "seventies to nineties", "recent")
MAX_TASTES = 3
_AFFINITY = 6.0  # an item wholly of the mood's genres is e^6 = 403 times as likely as one without any
_ERA_BONUS = 1.2
_POPULARITY = 0.6  # exponent of the popularity rank
_NOISE = 0.1  # share of events drawn from popularity alone
_TAIL = 1.3  # exponent of the number of events per user
_NEW_SESSION = 0.35
_SAME_MOOD_ROUNDS = 8
_DAY = 86_400


@dataclass(frozen=True)
class Model:
    """What all users share.

    Parameters
    ----------
    archetypes : tuple of Archetype
        The A tastes.
    affinity : numpy.ndarray
        How well item i suits taste a, in [0, 1]; float64 [A + 1, I], the last row is 0: popularity alone.
    steps : numpy.ndarray
        Cumulative item distribution of every cell (taste, era), each raised by its cell number, so that one
        sorted search serves all cells. Float64 [(A + 1) · E · I].
    events : tuple of int
        Fewest and most events of a user.
    days : int
        Length of the simulated time.
    """

    archetypes: tuple[Archetype, ...]
    affinity: np.ndarray
    steps: np.ndarray
    events: tuple[int, int]
    days: int

    @property
    def items(self) -> int:
        """Number of items I."""
        return int(self.affinity.shape[1])

    @classmethod
    def of(cls, catalogue: pl.DataFrame, seed: int, events: tuple[int, int], days: int) -> Model:
        """Build the model of a catalogue (columns of `catalogue.films`)."""
        categories = [list(c) for c in catalogue["categories"].to_list()]
        archetypes = archetypes_for(name for c in categories for name in c)
        affinity = np.zeros((len(archetypes) + 1, len(categories)))
        for row, archetype in enumerate(archetypes):
            affinity[row] = [sum(archetype.genres.get(n, 0.0) for n in c) / max(len(c), 1) for c in categories]
        rank = np.random.default_rng([seed, 0]).permutation(len(categories)) + 1
        year = catalogue["year"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        era = np.stack([np.zeros(len(year)), year < 1970, (year >= 1970) & (year < 2000), year >= 2000])
        log_weight = (
            -_POPULARITY * np.log(rank) + _AFFINITY * affinity[:, None, :] + _ERA_BONUS * era[None, :, :]
        ).reshape(-1, len(year))
        steps = np.cumsum(np.exp(log_weight), axis=1)
        steps /= steps[:, -1:]
        half = max(1, len(year) // 2)
        fewest, most = min(events[0], half), min(events[1], half)
        return cls(archetypes, affinity, (steps + np.arange(len(steps))[:, None]).ravel(), (fewest, most), days)


@dataclass(frozen=True)
class Draws:
    """One chunk: U users and their N events, ordered by user and time.

    Parameters
    ----------
    first : int
        Number of the chunk's first user.
    age, gender, occupation : numpy.ndarray
        Profile: years; 1 for women; index into `simulator.OCCUPATIONS`. Int64 [U].
    tastes : numpy.ndarray
        Row numbers of the tastes, strongest first; int64 [U, MAX_TASTES].
    weights : numpy.ndarray
        Their weights, 0 for a taste the user does not have; float64 [U, MAX_TASTES].
    era : numpy.ndarray
        Index into `ERAS`; int64 [U].
    counts : numpy.ndarray
        Events per user; int64 [U].
    items, seconds, ratings : numpy.ndarray
        Item row, seconds since the start, 1 to 5; [N].
    """

    first: int
    age: np.ndarray
    gender: np.ndarray
    occupation: np.ndarray
    tastes: np.ndarray
    weights: np.ndarray
    era: np.ndarray
    counts: np.ndarray
    items: np.ndarray
    seconds: np.ndarray
    ratings: np.ndarray


def draw(model: Model, first: int, users: int, rng: np.random.Generator) -> Draws:
    """Draw `users` users, numbered from `first`."""
    age = np.clip(np.rint(rng.normal(38, 13, users)), 16, 85).astype(np.int64)
    gender = rng.integers(0, 2, users)
    occupation = np.where(age < 23, 0, np.where(age > 66, 9, rng.integers(0, 9, users)))
    tastes, weights, era = _tastes(model, (age - 38) / 13, gender, rng)

    fewest, most = model.events
    tail = np.minimum(np.floor(fewest * (1 - rng.random(users)) ** (-1 / _TAIL)), most)
    counts = tail.astype(np.int64)
    owner = np.repeat(np.arange(users), counts)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    opens = (position == 0) | (rng.random(len(owner)) < _NEW_SESSION)
    session = np.cumsum(opens) - 1
    session_owner = owner[opens]

    # One mood per session: the first taste whose cumulative weight passes a uniform number.
    passed = rng.random(len(session_owner))[:, None] > np.cumsum(weights, axis=1)[session_owner]
    mood = tastes[session_owner, np.minimum(passed.sum(axis=1), MAX_TASTES - 1)]
    cell_taste = np.where(rng.random(len(owner)) < _NOISE, len(model.archetypes), mood[session])
    items = _distinct_items(model, owner, cell_taste * len(ERAS) + era[owner], rng)

    liking = model.affinity[mood[session], items]
    ratings = np.clip(np.rint(2.9 + 1.8 * liking + rng.normal(0, 0.8, len(owner))), 1, 5).astype(np.int8)
    seconds = _times(model, users, owner, position, session, session_owner, rng)
    return Draws(first, age, gender, occupation, tastes, weights, era, counts, items, seconds, ratings)


def _tastes(
    model: Model, age: np.ndarray, gender: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw 1 to 3 tastes without replacement (Gumbel top-k), their weights and an era per user."""
    users, kinds = len(age), len(model.archetypes)
    age_lean = np.array([a.age_lean for a in model.archetypes])
    gender_lean = np.array([a.gender_lean for a in model.archetypes])
    score = rng.gumbel(size=(users, kinds)) + age[:, None] * age_lean + (gender - 0.5)[:, None] * gender_lean
    order = np.argsort(-score, axis=1, kind="stable")[:, :MAX_TASTES]
    tastes = np.pad(order, ((0, 0), (0, MAX_TASTES - order.shape[1])), mode="edge")
    wanted = rng.choice([1, 2, 3], size=users, p=[0.35, 0.45, 0.2])
    owned = np.arange(MAX_TASTES) < np.minimum(wanted, kinds)[:, None]
    weights = -np.sort(-np.where(owned, rng.gamma(3.0, size=(users, MAX_TASTES)), 0.0), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    lean = np.stack([np.full(users, 0.4), 0.5 * age - 0.5, 0.2 * age, -0.5 * age], axis=1)
    era = np.argmax(rng.gumbel(size=lean.shape) + lean, axis=1)
    return tastes, weights, era


def _distinct_items(model: Model, owner: np.ndarray, cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one item per event from its cell, redrawing what the user already has.

    After a few rounds the remaining events take any item: as nobody has more than half of the catalogue,
    at least every second such draw is new, so the loop ends.
    """
    items = np.full(len(owner), -1, dtype=np.int64)
    todo = np.arange(len(owner))
    round_number = 0
    while len(todo):
        if round_number < _SAME_MOOD_ROUNDS:
            found = np.searchsorted(model.steps, cell[todo] + rng.random(len(todo)), side="right")
            drawn = np.clip(found - cell[todo] * model.items, 0, model.items - 1)
        else:
            drawn = rng.integers(0, model.items, len(todo))
        # Only events of users who still miss some can collide; settled ones stand first and win.
        unfinished = np.zeros(owner[-1] + 1, dtype=bool)
        unfinished[owner[todo]] = True
        settled = np.flatnonzero((items >= 0) & unfinished[owner])
        keys = np.concatenate([owner[settled] * model.items + items[settled], owner[todo] * model.items + drawn])
        fresh = pl.Series(keys).is_first_distinct().to_numpy()[len(settled) :]
        items[todo[fresh]] = drawn[fresh]
        todo = todo[~fresh]
        round_number += 1
    return items


def _times(
    model: Model,
    users: int,
    owner: np.ndarray,
    position: np.ndarray,
    session: np.ndarray,
    session_owner: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return strictly increasing seconds per user: sessions anywhere after joining, events minutes apart."""
    length = model.days * _DAY
    joined = rng.random(users) * length * 2 / 3
    begins = joined[session_owner] + rng.random(len(session_owner)) * (length - joined[session_owner])
    wide = 2 * length  # wider than any time, so that sorting keeps the users' blocks apart
    begins = np.sort(session_owner * wide + begins.astype(np.int64)) - session_owner * wide
    gap = rng.integers(120, 900, len(owner))
    elapsed = np.cumsum(gap)
    first_event = np.searchsorted(session, np.arange(len(session_owner)))
    moment = begins[session] + elapsed - elapsed[first_event][session]
    return np.sort(owner * wide + moment) - owner * wide + position
