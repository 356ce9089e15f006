"""What the LLM is asked about every seed user: histories → requests with ledger keys, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from reland_features.artifacts import content_id
from reland_features.config import Rationales
from reland_features.engines.base import Engine, Request
from reland_features.errors import TableError
from reland_features.ledger import request_key, skeleton_id
from reland_features.prompts import Catalogue, HistoryItem, PromptTemplate
from reland_features.skeleton import Options


@dataclass(frozen=True)
class SeedHistory:
    """What a seed's prompt shows (the last items, oldest first) and what it must not recommend.

    `banned` holds titles of the whole history, as the items table has them.
    """

    shown: tuple[HistoryItem, ...]
    banned: frozenset[str]


@dataclass(frozen=True)
class Ask:
    """One request with its ledger key; `attempt` counts the answers asked for, failed calls apart.

    `seed_user_id` is the first of the seeds that share the request.
    """

    key: str
    seed_user_id: str
    request: Request
    prompt_tokens: int
    attempt: int = 1


@dataclass(frozen=True)
class Plan:
    """All requests of a run.

    Parameters
    ----------
    catalogue, options
        What answers are read against, and the option sets of constrained answers.
    histories : mapping
        History by seed.
    roots : tuple of Ask
        Distinct first requests, in the order they are asked: by prompt tokens, then seed.
    root_of : mapping
        Key of the first request by seed.
    unaskable : mapping
        (status, reason) by seed, of seeds that no request can be made for.
    options_id : str
        Part of every key where the engine enforces skeletons, else empty.
    needs_step2 : bool
        Whether an answer without usable recommendations is invalid; else its Step 1 alone will do.
    """

    catalogue: Catalogue
    options: Options
    histories: Mapping[str, SeedHistory]
    roots: tuple[Ask, ...]
    root_of: Mapping[str, str]
    unaskable: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    options_id: str = ""
    needs_step2: bool = True


def histories_of_seeds(
    seeds: pl.DataFrame, histories: pl.DataFrame, catalogue: Catalogue, max_history: int
) -> dict[str, SeedHistory]:
    """Map every seed to the items its prompt shows.

    Parameters
    ----------
    seeds, histories : polars.DataFrame
        `columns.SEED_USERS` and `columns.USER_HISTORIES`.
    catalogue : Catalogue
        Condensed titles by item; items that it does not hold are passed over.
    max_history : int
        Show the last so many items.

    Raises
    ------
    TableError
        A seed has no history: the tables belong to different runs.
    """
    items = dict(zip(histories["user_id"], histories["item_ids"], strict=True))
    if missing := [user for user in seeds["user_id"] if user not in items]:
        raise TableError(
            "seed users without a history",
            where="user_histories",
            got=f"{len(missing)} of {seeds.height}, for example {', '.join(missing[:3])}",
            expected="one row per seed user",
            hint="reland run (seeds and histories must come from the same marts)",
        )
    found = {}
    for user in seeds["user_id"]:
        known = [catalogue.items[item] for item in items[user] if item in catalogue.items]
        banned = frozenset(catalogue.find_titles(item.title)[0] for item in known)
        found[user] = SeedHistory(tuple(known[-max_history:]), banned)
    return found


def plan_requests(
    seeds: pl.DataFrame,
    histories: pl.DataFrame,
    items: pl.DataFrame,
    template: PromptTemplate,
    engine: Engine,
    settings: Rationales,
) -> Plan:
    """Render every seed's prompt and decide the order of the requests; see `histories_of_seeds` for errors."""
    catalogue = template.catalogue(items)
    options = catalogue.options()
    # An engine that does not enforce skeletons answers the prompt alone: the catalogue is no part of its keys.
    is_constrained = getattr(engine, "constrained", True)
    options_id = content_id({name: list(values) for name, values in options.items()}) if is_constrained else ""
    found = histories_of_seeds(seeds, histories, catalogue, settings.max_history)
    shown_as = dict(zip(catalogue.titles, catalogue.shown, strict=True))
    n_categories = min(settings.categories, len(catalogue.categories))
    unaskable: dict[str, tuple[str, str]] = {}
    requests: list[tuple[str, Request]] = []
    for seed, history in found.items():
        n_items = min(settings.items, len(catalogue.titles) - len(history.banned))
        if not history.shown:
            unaskable[seed] = ("failed", "no item of the history is in the items table")
        elif not n_items:
            unaskable[seed] = ("invalid", "every title of the catalogue is in the history")
        else:
            skeleton = template.skeleton({shown_as[title] for title in history.banned}, n_categories, n_items)
            messages = template.render(history.shown, n_categories, n_items)
            requests.append((seed, Request(messages, skeleton, settings.max_tokens)))
    tokens = engine.count_tokens([request for _, request in requests])
    asks = [
        Ask(_key(engine, request, options_id), seed, request, count)
        for (seed, request), count in zip(requests, tokens, strict=True)
    ]
    asks.sort(key=lambda ask: (ask.prompt_tokens, ask.seed_user_id))
    roots: dict[str, Ask] = {}
    for ask in asks:
        roots.setdefault(ask.key, ask)
    root_of = {ask.seed_user_id: ask.key for ask in asks}
    return Plan(catalogue, options, found, tuple(roots.values()), root_of, unaskable, options_id)


def next_ask(ask: Ask, engine: Engine, options_id: str, *, is_truncated: bool) -> Ask | None:
    """Return the request to make after an unusable answer, or None where it would be answered the same.

    A truncated answer gets twice the tokens; another one is asked for again only if the engine samples.
    """
    parameters = engine.parameters
    is_sampling = parameters.get("temperature", 0) != 0 and parameters.get("seed") is None
    if not is_truncated and not is_sampling:
        return None
    request = replace(ask.request, max_tokens=ask.request.max_tokens * 2) if is_truncated else ask.request
    attempt = ask.attempt + 1
    return replace(ask, request=request, attempt=attempt, key=_key(engine, request, options_id, attempt))


def _key(engine: Engine, request: Request, options_id: str, attempt: int = 1) -> str:
    shape = skeleton_id(request.skeleton, options_id) if options_id else ""
    return request_key(engine.engine_id, request.messages, engine.parameters, request.max_tokens, shape, attempt)
