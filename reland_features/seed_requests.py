"""What the LLM is asked about every seed user: histories → requests with ledger keys, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from reland_features.artifacts import content_id
from reland_features.config import Rationales
from reland_features.engines.base import Engine, Message, Request, most_tokens
from reland_features.engines.structured import json_schema
from reland_features.errors import ConfigError, EngineError, TableError
from reland_features.ledger_keys import request_key, schema_id, skeleton_id
from reland_features.prompts import Catalogue, Condensing, HistoryItem, PromptTemplate
from reland_features.seed_tables import SeedTables
from reland_features.skeleton import Options, Skeleton

_CORRECTION = "This answer cannot be used: {problem}. Answer again, in exactly the layout asked for."


@dataclass(frozen=True)
class SeedHistory:
    """What a seed's prompt shows (the last items, oldest first) and what it must not recommend.

    `banned` holds titles of everything that the user has interacted with, as the items table has them: more than
    `data.max_history` items, where there are more. `earlier` counts interactions that are older than those shown.
    """

    shown: tuple[HistoryItem, ...]
    banned: frozenset[str]
    earlier: int = 0

    def last(self, count: int) -> SeedHistory:
        """Show only the last `count` items."""
        hidden = max(0, len(self.shown) - count)
        return replace(self, shown=self.shown[hidden:], earlier=self.earlier + hidden)


@dataclass(frozen=True)
class Ask:
    """One request with its ledger key; `attempt` counts the answers asked for, failed calls apart.

    `prompt_tokens` is what a budget counts (`engines.base.most_tokens`).
    `seed_user_id` is the first of the seeds that share the request. Under `earlier_keys` other releases recorded
    answers to the same request: they are looked up, and nothing is recorded under them.
    """

    key: str
    seed_user_id: str
    request: Request
    prompt_tokens: int
    attempt: int = 1
    earlier_keys: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that the ledger may have an answer under."""
        return self.key, *self.earlier_keys


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
        Part of every key where the engine enforces skeletons token by token; empty where it enforces none.
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
    tables: SeedTables, catalogue: Catalogue, max_history: int, condensing: Condensing | None = None
) -> dict[str, SeedHistory]:
    """Map every seed to the items its prompt shows and the titles that it is not recommended.

    Parameters
    ----------
    tables : SeedTables
        The seeds and their behaviour.
    catalogue : Catalogue
        Condensed titles by item; items that it does not hold are passed over.
    max_history : int
        Show the last so many items; all of them where `condensing` bounds the prompt's tokens.
    condensing : Condensing, optional
        Takes repeated items out first.

    Raises
    ------
    TableError
        A seed has no history: the tables belong to different runs.
    """
    seeds, histories = tables.seeds, tables.histories
    items = dict(zip(histories["user_id"], histories["item_ids"], strict=True))
    seen = dict(zip(tables.seen["user_id"], tables.seen["item_ids"], strict=True))
    counts = (
        histories["interaction_count"] if "interaction_count" in histories.columns else histories["item_ids"].list.len()
    )
    totals = dict(zip(histories["user_id"], counts, strict=True))
    if missing := [user for user in seeds["user_id"] if user not in items or user not in seen]:
        raise TableError(
            "seed users without a history",
            where="user_histories",
            got=f"{len(missing)} of {seeds.height}, for example {', '.join(missing[:3])}",
            expected="one row per seed user",
            hint="reland run (seeds and histories must come from the same marts)",
        )
    found = {}
    for user in seeds["user_id"]:
        history = history_of(items[user], seen[user], totals[user], catalogue, condensing)
        found[user] = history if condensing and condensing.max_prompt_tokens else history.last(max_history)
    return found


def history_of(
    item_ids: Sequence[str], seen: Iterable[str], total: int, catalogue: Catalogue, condensing: Condensing | None
) -> SeedHistory:
    """Return all of a user's history that a prompt may show: `item_ids` are the last ones of `total` interactions."""
    known = [catalogue.items[item] for item in item_ids if item in catalogue.items]
    shown = condensing.items(known) if condensing else tuple(known)
    return SeedHistory(shown, banned_titles(seen, catalogue), max(0, total - len(item_ids)))


def banned_titles(item_ids: Iterable[str], catalogue: Catalogue) -> frozenset[str]:
    """Return the titles of items, as the items table has them; what the catalogue does not hold has none."""
    return frozenset(
        catalogue.find_titles(catalogue.items[item].title)[0] for item in item_ids if item in catalogue.items
    )


def plan_requests(tables: SeedTables, template: PromptTemplate, engine: Engine, settings: Rationales) -> Plan:
    """Render every seed's prompt and decide the order of the requests.

    Raises
    ------
    TableError
        See `histories_of_seeds`.
    ConfigError
        A prompt with a single item is longer than `rationales.condense.max_prompt_tokens`.
    """
    catalogue = template.catalogue(tables.items)
    options = catalogue.options()
    # An engine that does not enforce skeletons answers the prompt alone: the catalogue is no part of its keys.
    is_constrained = getattr(engine, "constrained", True)
    options_id = content_id({name: list(values) for name, values in options.items()}) if is_constrained else ""
    found = histories_of_seeds(tables, catalogue, settings.max_history, template.condensing)
    shown_as = dict(zip(catalogue.titles, catalogue.shown, strict=True))
    n_categories = min(settings.categories, len(catalogue.categories))
    unaskable: dict[str, tuple[str, str]] = {}
    wanted: dict[str, tuple[Skeleton, int]] = {}
    for seed, history in found.items():
        n_items = min(settings.items, len(catalogue.titles) - len(history.banned))
        if not history.shown:
            unaskable[seed] = ("failed", "no item of the history is in the items table")
        elif not n_items:
            unaskable[seed] = ("invalid", "every title of the catalogue is in the history")
        else:
            banned = {shown_as[title] for title in history.banned}
            wanted[seed] = template.skeleton(banned, n_categories, n_items), n_items

    def request(seed: str, history: SeedHistory) -> Request:
        skeleton, n_items = wanted[seed]
        messages = template.render(history.shown, n_categories, n_items, history.earlier)
        return Request(messages, skeleton, settings.max_tokens)

    if template.condensing and (limit := template.condensing.max_prompt_tokens):
        found |= fitted_histories({seed: found[seed] for seed in wanted}, limit, request, engine)
    requests = [(seed, request(seed, found[seed])) for seed in wanted]
    tokens = most_tokens(engine, [request for _, request in requests])
    asks = []
    for (seed, rendered), count in zip(requests, tokens, strict=True):
        key, *earlier = request_keys(engine, rendered, options, options_id)
        asks.append(Ask(key, seed, rendered, count, earlier_keys=tuple(earlier)))
    asks.sort(key=lambda ask: (ask.prompt_tokens, ask.seed_user_id))
    roots: dict[str, Ask] = {}
    for ask in asks:
        first = roots.setdefault(ask.key, ask)
        if not set(ask.earlier_keys) <= set(first.earlier_keys):  # seeds that share a request had keys of their own
            roots[ask.key] = replace(first, earlier_keys=(*first.earlier_keys, *ask.earlier_keys))
    root_of = {ask.seed_user_id: ask.key for ask in asks}
    return Plan(catalogue, options, found, tuple(roots.values()), root_of, unaskable, options_id)


def fitted_histories(
    histories: Mapping[str, SeedHistory], limit: int, request: Callable[[str, SeedHistory], Request], engine: Engine
) -> dict[str, SeedHistory]:
    """Cut every history to the most of its last items whose prompt has at most `limit` tokens, by bisection.

    Raises
    ------
    ConfigError
        A prompt with a single item is longer.
    """
    fits = dict.fromkeys(histories, 1)
    low = engine.count_tokens([request(seed, history.last(1)) for seed, history in histories.items()])
    if low and max(low) > limit:
        raise ConfigError(
            "a prompt with a single item of the history is longer than the limit",
            where="rationales.condense.max_prompt_tokens",
            got=f"{max(low)} tokens at most, {min(low)} at least",
            expected=f"at most {limit} tokens",
            hint=f"--set rationales.condense.max_prompt_tokens={max(low) + 256}, or fewer examples",
        )
    too_many = {seed: len(history.shown) + 1 for seed, history in histories.items()}
    while tried := {s: (fits[s] + too_many[s]) // 2 for s in histories if too_many[s] - fits[s] > 1}:
        counts = engine.count_tokens([request(seed, histories[seed].last(n)) for seed, n in tried.items()])
        for (seed, n), count in zip(tried.items(), counts, strict=True):
            (fits if count <= limit else too_many)[seed] = n
    return {seed: history.last(fits[seed]) for seed, history in histories.items()}


def is_sampling(engine: Engine) -> bool:
    """Say whether an engine may answer the same request in another way."""
    return engine.parameters.get("temperature", 0) != 0 and engine.parameters.get("seed") is None


def is_told(engine: Engine) -> bool:
    """Say whether an engine is told what was wrong: it would repeat itself, and no skeleton holds its answers."""
    return not is_sampling(engine) and not getattr(engine, "constrained", True)


def told(request: Request, text: str, problem: str) -> Request:
    """Go on with a conversation: the answer that came, and what is wrong with it."""
    reply: Message = {"role": "assistant", "content": text.strip()}
    correction: Message = {"role": "user", "content": _CORRECTION.format(problem=problem)}
    return replace(request, messages=(*request.messages, reply, correction))


def next_ask(ask: Ask, engine: Engine, plan: Plan, *, is_truncated: bool, text: str = "", problem: str = "") -> Ask:
    """Return the request that follows an unusable answer.

    With twice the tokens if it was truncated; with the answer's `text` and its `problem` in the conversation where
    the engine can be told; else the same.
    """
    request, prompt_tokens = ask.request, ask.prompt_tokens
    if is_truncated:
        request = replace(request, max_tokens=request.max_tokens * 2)
    elif is_told(engine):
        request = told(request, text, problem)
        (prompt_tokens,) = most_tokens(engine, [request])
    attempt = ask.attempt + 1
    key, *earlier = request_keys(engine, request, plan.options, plan.options_id, attempt)
    return Ask(key, ask.seed_user_id, request, prompt_tokens, attempt, tuple(earlier))


def request_keys(
    engine: Engine, request: Request, options: Options, options_id: str, attempt: int = 1
) -> tuple[str, ...]:
    """Return a request's ledger key and, where an earlier release gave it another one, that too.

    What an engine decodes itself depends on every option; what is sent as a JSON schema on that schema alone, which
    holds no long option set: there a new title of the catalogue leaves the request as it is.
    """
    shapes = [skeleton_id(request.skeleton, options_id)] if options_id else [""]
    if options_id and getattr(engine, "sends_schema", False):
        with suppress(EngineError):  # there is no schema: such a request fails before it is sent
            shapes.insert(0, schema_id(request.skeleton, json_schema(request.skeleton, options)))
    asked = engine.engine_id, request.messages, engine.parameters, request.max_tokens
    return tuple(request_key(*asked, shape, attempt) for shape in shapes)
