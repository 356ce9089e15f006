"""Name and type every table that crosses a boundary: dbt marts, stage artifacts, feature tables.

dbt states the same columns in its contracts and Feast in its views; a test compares the three.
Timestamps are UTC and stored as `timestamp[us]` without a zone: DuckDB 2.0 with ibis 12 fails on
nanoseconds, and Feast reads zoneless timestamps as UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

LogicalType = Literal[
    "string", "int32", "int64", "float32", "float64", "bool", "timestamp", "list<string>", "list<float32>"
]

USER_ID = "user_id"
ITEM_ID = "item_id"
SEED_USER_ID = "seed_user_id"
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"


@dataclass(frozen=True)
class Column:
    """One column: its name, logical type, whether it may be null, and what it means."""

    name: str
    type: LogicalType
    nullable: bool = False
    description: str = ""


@dataclass(frozen=True)
class Table:
    """One table: its name, its columns in order, and the key that is unique in it."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    def polars_schema(self) -> pl.Schema:
        """Return the table as a polars schema."""
        import polars as pl

        types = {
            "string": pl.String(),
            "int32": pl.Int32(),
            "int64": pl.Int64(),
            "float32": pl.Float32(),
            "float64": pl.Float64(),
            "bool": pl.Boolean(),
            "timestamp": pl.Datetime("us"),
            "list<string>": pl.List(pl.String()),
            "list<float32>": pl.List(pl.Float32()),
        }
        return pl.Schema({column.name: types[column.type] for column in self.columns})

    def arrow_schema(self) -> pa.Schema:
        """Return the table as an Arrow schema, as it stands in parquet."""
        import pyarrow as pa

        types = {
            "string": pa.string(),
            "int32": pa.int32(),
            "int64": pa.int64(),
            "float32": pa.float32(),
            "float64": pa.float64(),
            "bool": pa.bool_(),
            "timestamp": pa.timestamp("us"),
            "list<string>": pa.list_(pa.string()),
            "list<float32>": pa.list_(pa.float32()),
        }
        return pa.schema([(column.name, types[column.type]) for column in self.columns])


_USER = Column("user_id", "string", description="Whose row this is; the join key of the Feast entity `user`.")
_ITEM = Column("item_id", "string", description="The item; the join key of the Feast entity `item`.")
_SEED = Column("seed_user_id", "string", description="The seed user; the join key of the Feast entity `seed`.")
_POOL = Column("pool_version", "string", description="Version of the reasoning pool this row was made from.")
_TIMES = (
    Column("event_timestamp", "timestamp", description="as_of: the last instant of behaviour that was used (UTC)."),
    Column("created_timestamp", "timestamp", description="When the row was published (UTC)."),
)

# --- marts: written by dbt, read by Python ---------------------------------------------------

INTERACTIONS = Table(
    "interactions",
    ("user_id", "interaction_order"),
    (
        _USER,
        _ITEM,
        Column("interacted_at", "timestamp", description="When it happened (UTC); made from the order if none."),
        Column("event_type", "string", description="Kind of event, `interaction` where the source has none."),
        Column("weight", "float64", description="Strength of the event, 1.0 where the source has none."),
        Column("interaction_order", "int64", description="1-based chronological position within the user."),
    ),
)
ITEMS = Table(
    "items",
    ("item_id",),
    (
        _ITEM,
        Column("title", "string", description="Title shown to the LLM."),
        Column("brand", "string", nullable=True, description="Brand, maker or director."),
        Column("categories", "list<string>", description="Categories, genres or tags; may be empty, never null."),
        Column("description", "string", nullable=True, description="Longer text."),
        Column("interaction_count", "int64", description="Interactions with the item inside the window."),
    ),
)
USERS = Table(
    "users",
    ("user_id",),
    (
        _USER,
        Column("profile", "string", nullable=True, description="Profile columns as `name: value; name: value`."),
        Column("interaction_count", "int64", description="Interactions inside the window; 0 for a user without any."),
        Column("activity_level", "string", nullable=True, description="L1 (fewest) to L4 by quartile; null at 0."),
        Column("first_interacted_at", "timestamp", nullable=True, description="First interaction in the window."),
        Column("last_interacted_at", "timestamp", nullable=True, description="Last interaction in the window."),
    ),
)
USER_HISTORIES = Table(
    "user_histories",
    ("user_id",),
    (
        _USER,
        Column("item_ids", "list<string>", description="The last `max_history` items, oldest first."),
        Column("interaction_count", "int64", description="Interactions inside the window, before the cap."),
        Column("last_interacted_at", "timestamp", description="Last interaction in the window."),
    ),
)
HOLDOUT = Table(
    "holdout",
    ("user_id", "holdout_rank"),
    (
        _USER,
        _ITEM,
        Column("interacted_at", "timestamp", description="When it happened (UTC)."),
        Column(
            "holdout_rank",
            "int64",
            description="1 is the user's last interaction. The first half of a user's ranks are the test part.",
        ),
    ),
)
IMPRESSIONS = Table(
    "impressions",
    ("user_id", "item_id", "shown_at"),
    (
        _USER,
        _ITEM,
        Column("shown_at", "timestamp", description="When the item was shown (UTC)."),
        Column("is_clicked", "bool", description="Whether the user clicked it."),
    ),
)
MARTS = (INTERACTIONS, ITEMS, USERS, USER_HISTORIES, HOLDOUT)

# --- stage artifacts: written and read by Python ---------------------------------------------

BEHAVIOR_VECTORS = Table(
    "behavior_vectors",
    ("user_id",),
    (_USER, Column("vector", "list<float32>", description="m_u of Eq. (1).")),
)
SEED_USERS = Table(
    "seed_users",
    ("user_id",),
    (
        _USER,
        Column("cluster_id", "int32", description="K-means cluster of the user."),
        Column("drawn_by", "string", description="representative or important (section 3.1.1), or random."),
    ),
)
USER_CLUSTERS = Table(
    "user_clusters",
    ("user_id",),
    (_USER, Column("cluster_id", "int32", description="K-means cluster of the user.")),
)
RATIONALES = Table(
    "rationales",
    ("seed_user_id",),
    (
        _SEED,
        Column("status", "string", description="ok, invalid (answered, not usable) or failed (no answer)."),
        Column("summary", "string", nullable=True, description="Step 1: the explanation, one sentence."),
        Column("categories", "list<string>", nullable=True, description="Step 2: catalogue categories."),
        Column("items", "list<string>", nullable=True, description="Step 2: catalogue titles, none of the history."),
        Column("text", "string", nullable=True, description="The raw answer."),
        Column("reason", "string", nullable=True, description="Why the status is not ok."),
        Column("prompt_tokens", "int64", description="Tokens of the prompt."),
        Column("completion_tokens", "int64", description="Tokens of the answer."),
        Column("ledger_key", "string", description="Key of the ledger row that holds the answer."),
    ),
)
IMPORTED_TEXTS = Table(
    "imported_texts",
    ("user_id",),
    (
        _USER,
        Column("text", "string", description="What another system wrote of the user: both steps, or Step 1."),
        Column("model", "string", description="Who wrote it."),
        Column("has_step2", "bool", description="Whether the text recommends anything, known or not."),
    ),
)
POOL = Table(
    "reasoning_pool",
    ("seed_user_id",),
    (
        _SEED,
        Column("cluster_id", "int32", description="K-means cluster of the seed."),
        Column("vector", "list<float32>", description="m_s: the seed's behaviour vector."),
        Column("rationale_embedding", "list<float32>", description="TextEncoder of Step 2 (or as rationales.embed)."),
        Column("rationale_components", "list<float32>", description="PCA of the embeddings, for tree rankers."),
        Column("summary", "string", description="Step 1: the explanation."),
        Column("categories", "list<string>", description="Step 2: categories."),
        Column("items", "list<string>", description="Step 2: titles."),
    ),
)
MATCHES = Table(
    "matches",
    ("user_id", "rank"),
    (
        _USER,
        Column("rank", "int32", description="1 is the most similar seed."),
        Column("seed_user_id", "string", nullable=True, description="arg max of Eq. (3); null is no match."),
        Column("similarity", "float32", nullable=True, description="Cosine of the two behaviour vectors."),
    ),
)

# --- feature tables: append-only parquet, sources of the Feast views --------------------------

_EMBEDDING = Column(
    "rationale_embedding", "list<float32>", nullable=True, description="Embedding of the Step 2 text, unit length."
)
_COMPONENTS = Column(
    "rationale_components",
    "list<float32>",
    nullable=True,
    description="Leading PCA components of the embedding; the axes are those of one pool_version.",
)
_SUMMARY = Column("summary", "string", nullable=True, description="Step 1: why, in one sentence.")
_MATCH = (
    Column("seed_user_id", "string", nullable=True, description="Seed whose rationale is inherited; null: no match."),
    Column("similarity", "float32", nullable=True, description="Cosine similarity to that seed, Eq. (3)."),
    Column("cluster_id", "int32", nullable=True, description="Cluster of that seed, numbered within a pool_version."),
)

USER_RATIONALE = Table(
    "user_rationale", ("user_id",), (_USER, _EMBEDDING, _COMPONENTS, *_MATCH, _SUMMARY, _POOL, *_TIMES)
)
USER_SEED_MATCH = Table("user_seed_match", ("user_id",), (_USER, *_MATCH, _POOL, *_TIMES))
SEED_RATIONALE = Table(
    "seed_rationale",
    ("seed_user_id",),
    (
        _SEED,
        _EMBEDDING,
        _COMPONENTS,
        _SUMMARY,
        Column("categories", "list<string>", nullable=True, description="Step 2: categories."),
        Column("items", "list<string>", nullable=True, description="Step 2: titles."),
        _POOL,
        *_TIMES,
    ),
)
USER_ACTIVITY = Table(
    "user_activity",
    ("user_id",),
    (
        _USER,
        Column("interaction_count", "int64", description="Interactions inside the window."),
        Column("activity_level", "string", nullable=True, description="L1 (fewest) to L4; null without behaviour."),
        Column("last_interacted_at", "timestamp", nullable=True, description="Last interaction in the window."),
        Column("category_names", "list<string>", description="Categories of the history, most frequent first."),
        Column("category_shares", "list<float32>", description="Share of the history in each, same order."),
        *_TIMES,
    ),
)
ITEM_ATTRIBUTES = Table(
    "item_attributes",
    ("item_id",),
    (
        _ITEM,
        Column("title", "string", description="Title."),
        Column("brand", "string", nullable=True, description="Brand, maker or director."),
        Column("categories", "list<string>", description="Categories."),
        Column("interaction_count", "int64", description="Interactions with the item inside the window."),
        Column("item_text_embedding", "list<float32>", description="TextEncoder of categories and title, unit length."),
        *_TIMES,
    ),
)
FEATURE_TABLES = (USER_RATIONALE, USER_SEED_MATCH, SEED_RATIONALE, USER_ACTIVITY, ITEM_ATTRIBUTES)

USER_MATCH_DETAIL = Table(
    "user_match_detail",
    ("user_id",),
    (
        _USER,
        Column("seed_user_ids", "list<string>", description="All seeds of the user, the best first; empty: no match."),
        Column("seed_weights", "list<float32>", description="What each counts in the fused embedding; sums to 1."),
        Column(
            "is_cold_start", "bool", description="Matched by profile (cold_start), as there is too little behaviour."
        ),
        _POOL,
        *_TIMES,
    ),
)
OPTIONAL_FEATURE_TABLES = (USER_MATCH_DETAIL,)  # published where match.top_k is above 1 or cold_start is enabled
