"""Which column of a team's tables is what: recognised by common names, and which template their columns call for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reland_features.errors import CheckError, RelandError, TableError

# Names seen in public data sets and common event trackers, best first; case and punctuation do not count.
KNOWN_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "interactions": {
        "user_id": ("user_id", "uid", "user", "customer_id", "client_id", "reviewer_id", "visitor_id", "member_id"),
        "item_id": (
            "item_id", "iid", "item", "product_id", "movie_id", "parent_asin", "asin", "article_id", "sku", "sku_id",
            "content_id",
        ),
        "interacted_at": (
            "interacted_at", "timestamp", "event_time", "event_timestamp", "created_at", "occurred_at", "ts", "time",
            "datetime", "date", "purchased_at", "order_date", "purchase_date", "unix_review_time", "t_dat",
        ),
        "event_type": ("event_type", "event", "action", "behavior", "behaviour"),
        "weight": ("weight",),
    },
    "items": {
        "item_id": (
            "item_id", "iid", "id", "product_id", "movie_id", "parent_asin", "asin", "article_id", "sku", "sku_id",
            "content_id",
        ),
        "title": ("title", "name", "item_name", "product_name", "prod_name", "product_title"),
        "brand": ("brand", "director", "maker", "manufacturer", "artist", "author", "publisher"),
        "categories": (
            "categories", "genres", "category", "genre", "category_path", "category_name", "product_category", "tags",
            "topics", "product_type_name",
        ),
        "description": ("description", "overview", "summary", "detail_desc", "abstract"),
    },
    "users": {
        "user_id": (
            "user_id", "uid", "id", "user", "customer_id", "client_id", "reviewer_id", "visitor_id", "member_id",
        ),
    },
}  # fmt: skip
KNOWN_PROFILE = ("age", "age_group", "gender", "sex", "occupation", "job", "country", "language", "membership", "plan")
_REQUIRED = {"interactions": ("user_id", "item_id"), "items": ("item_id", "title"), "users": ("user_id",)}
_OPTION = {"interacted_at": "time"}
_PROMPTS = {
    **dict.fromkeys(("genres", "genre", "movieid"), "movies"),
    **dict.fromkeys(("brand", "productid", "productname", "asin", "parentasin", "sku"), "products"),
}


@dataclass(frozen=True)
class Recognised:
    """What became of a project's columns: role → source column, by table; and what separates categories in a text."""

    columns: Mapping[str, Mapping[str, str]]
    profile: tuple[str, ...] = ()
    prompt: str = "generic"
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    separator: str = "|"


def recognise(
    tables: Mapping[str, Sequence[str]], named: Mapping[str, str | None], profile: Sequence[str] = ()
) -> Recognised:
    """Find the columns of each table: those named by the user, then the common names.

    Parameters
    ----------
    tables : mapping of str to sequence of str
        Column names of `interactions`, `items` and optionally `users`.
    named : mapping of str to str or None
        Role → column as given on the command line; `user_id` and `item_id` count for every table
        that has such a column.

    Raises
    ------
    TableError
        A required column is not recognised, or a named one is in no table.
    CheckError
        Several are not.
    """
    found: dict[str, dict[str, str]] = {}
    for table, names in tables.items():
        plain = {_plain(name): name for name in reversed(names)}  # of two alike, the first
        roles = {**KNOWN_NAMES[table], **({"order": ()} if table == "interactions" else {})}
        found[table] = {}
        for role, known in roles.items():
            given = named.get(role)
            if given is not None and given in names:
                found[table][role] = given
            elif match := next((plain[_plain(name)] for name in known if _plain(name) in plain), None):
                found[table][role] = match
    for role, given in named.items():
        if given is not None and not any(given == columns.get(role) for columns in found.values()):
            raise TableError(
                f"--{_OPTION.get(role, role.removesuffix('_id') + '-id' if role.endswith('_id') else role)}-column "
                "names a column that is in no table",
                got=given,
                expected="; ".join(f"{table}: {', '.join(names)}" for table, names in tables.items()),
            )
    if problems := _not_recognised(tables, found):
        raise problems[0] if len(problems) == 1 else CheckError(problems)
    for column in profile:
        if column not in tables.get("users", ()):
            raise TableError(
                "--profile-columns names a column that the users table has not",
                got=column,
                expected=", ".join(tables.get("users", ())) or "a users table (--users FILE)",
            )
    known_profile = {_plain(name) for name in KNOWN_PROFILE}
    chosen = tuple(profile) or tuple(c for c in tables.get("users", ()) if _plain(c) in known_profile)
    used = {table: {*roles.values(), *(chosen if table == "users" else ())} for table, roles in found.items()}
    return Recognised(
        columns=found,
        profile=chosen,
        prompt=next((_PROMPTS[_plain(n)] for n in tables["items"] if _plain(n) in _PROMPTS), "generic"),
        unused={table: tuple(n for n in names if n not in used[table]) for table, names in tables.items()},
    )


def _plain(name: str) -> str:
    """Return what of a column's name counts: customerID, Customer ID and customer_id are one."""
    return re.sub(r"[\W_]", "", name.lower())


def _not_recognised(tables: Mapping[str, Sequence[str]], found: Mapping[str, Mapping[str, str]]) -> list[RelandError]:
    problems: list[RelandError] = [
        TableError(
            f"no column of the {table} table is recognised as {role}",
            where=table,
            got=", ".join(tables[table]),
            expected=f"one of {', '.join(KNOWN_NAMES[table][role])}",
            hint=f"name it: --{role.replace('_', '-')}-column NAME",
        )
        for table in tables
        for role in _REQUIRED[table]
        if role not in found[table]
    ]
    if not {"interacted_at", "order"} & set(found["interactions"]):
        problems.append(
            TableError(
                "the interactions table has no recognised time column",
                got=", ".join(tables["interactions"]),
                expected=f"one of {', '.join(KNOWN_NAMES['interactions']['interacted_at'])}",
                hint="name it: --time-column NAME, or --order-column NAME where only the order is known",
            )
        )
    return problems
