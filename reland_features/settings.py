"""Every setting of `reland.toml`, its default and its limits; `reland_features.config` reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


class Section(BaseModel):
    """A table of `reland.toml`; immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class InteractionColumns(Section):
    """Which source column holds what, in the interactions table."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    interacted_at: str | None = None
    order: str | None = None
    event_type: str | None = None
    weight: str | None = None

    @model_validator(mode="after")
    def _time_or_order(self) -> InteractionColumns:
        if self.interacted_at is None and self.order is None:
            raise ValueError("name a time column (interacted_at) or an order column (order), or both")
        return self


class ItemColumns(Section):
    """Which source column holds what, in the items table."""

    item_id: str = "item_id"
    title: str = "title"
    brand: str | None = None
    categories: str | None = None
    description: str | None = None


class UserColumns(Section):
    """Which source column holds what, in the users table; `profile` columns are joined to a text."""

    user_id: str = "user_id"
    profile: tuple[str, ...] = ()


class ImpressionColumns(Section):
    """Which source column holds what, in the impressions table."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    shown_at: str = "shown_at"
    is_clicked: str = "is_clicked"


class Columns(Section):
    """Column mapping of all sources."""

    interactions: InteractionColumns = InteractionColumns(interacted_at="interacted_at")
    items: ItemColumns = ItemColumns()
    users: UserColumns = UserColumns()
    impressions: ImpressionColumns = ImpressionColumns()


class Data(Section):
    """Sources and how dbt prepares them.

    A source is a parquet or CSV file (or glob), or with `target = "postgres"` a ``schema.table``.
    """

    target: Literal["duckdb", "postgres"] = "duckdb"
    interactions: str
    items: str
    users: str | None = None
    impressions: str | None = None
    categories_separator: str = Field("|", min_length=1)  # without one a text is cut into letters
    columns: Columns = Columns()
    as_of: datetime | None = None
    window_days: int | None = Field(None, ge=1)
    user_k_core: int = Field(1, ge=1)
    item_k_core: int = Field(1, ge=1)
    max_history: int = Field(50, ge=1)
    memory_limit: str = ""

    @field_validator("as_of")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        """Keep UTC without a zone, as every table does."""
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None and value.tzinfo else value


class Evaluation(Section):
    """What is kept away from every stage so that rankers can be measured on it.

    `holdout` last interactions of each user who has `min_history` more are hidden from encoder, LLM and features: the
    last one is the test label, the one before the ranker's training label. Set 0 in production, where rankers learn
    from a point-in-time join on earlier runs; those of `ranking.train` learn from what is held out.
    `test_fraction` above 0 holds out more of long histories: the last tenth of each user's interactions
    for 0.1, and as many before them, never fewer than `holdout`. This is the 80/10/10 split in time order
    of collaborative filtering.
    Rankers are measured on a uniform sample of `max_users`, and XGBoost and MaskNet of `ranking.train` learn from as
    many; 0 is everyone. `candidates` are the items that each is shown.
    `command` is run after publishing and writes the metrics that the report shows; {project} and
    {output} are filled in. An empty list runs nothing.
    """

    holdout: Literal[0, 2] = 2
    test_fraction: float = Field(0.0, ge=0, le=0.4)
    min_history: int = Field(3, ge=1)
    candidates: int = Field(100, ge=2)
    max_users: int = Field(2000, ge=0)
    command: tuple[str, ...] = (
        "{python}", "-m", "ranking.evaluate", "--project", "{project}", "--output", "{output}",
    )  # fmt: skip

    @field_validator("max_users")
    @classmethod
    def _enough(cls, value: int) -> int:
        """Refuse samples that tell nothing; 0 is everyone, as on the command lines."""
        if 0 < value < 10:
            raise ValueError("should be 0 for everyone, or 10 at least")
        return value


class Encoder(Section):
    """The behaviour encoder of Eq. (1): `lightgcn`, `sasrec` or ``package.module:Class``."""

    name: str = "lightgcn"
    dimension: int = Field(64, ge=2)
    options: dict[str, Any] = {}


class Seeds(Section):
    """How many users the LLM reasons about (section 3.1.1): `count`, or a `fraction` of the users.

    The `sampler` is the paper's adaptive one; `random` draws uniformly, to measure what adaptive is worth.
    With `min_marginal_similarity` the number is a limit: fewer are drawn where 100 more seeds would raise the mean
    similarity of users to their seed by less than this (`reland seeds plan` shows the curve).
    """

    fraction: float = Field(0.1, gt=0, le=1)
    count: int | None = Field(None, ge=1)
    clusters: int | Literal["auto"] = "auto"
    sampler: Literal["adaptive", "random"] = "adaptive"
    min_marginal_similarity: float | None = Field(None, gt=0)

    @field_validator("clusters")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or 'auto'")
        return value


class Condense(Section):
    """Step 0 for noisy histories (section 3.1.2).

    Promotional text, addresses, pictures and shouting go from titles; `patterns` are regular expressions of your
    own beside the template's. With `dedupe` a repeated item is shown once. `max_prompt_tokens` takes the place of
    `rationales.max_history`: the newest items that fit are shown, and the prompt says how many are not.
    """

    enabled: bool = False
    patterns: tuple[str, ...] = ()
    dedupe: bool = True
    max_prompt_tokens: int | None = Field(None, ge=32)

    @field_validator("patterns")
    @classmethod
    def _regular(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return value


class Ray(Section):
    """Where the engine runs on several workers: `address` is ``local``, ``auto`` or a cluster's ``host:port``.

    `cpus` and `gpus` are what each worker reserves. Answers and their ledger keys stay the engine's own.
    """

    workers: int = Field(ge=1)
    address: str = "local"
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)


class Rationales(Section):
    """The prompt, the LLM and its limits (section 3.1.2).

    `prompt` is a domain (movies, products, generic) or a path to a TOML file. `options` are the
    engine's own (see engines/hf.py, openai.py and vllm.py). Prices are per million tokens.
    `examples` of the prompt's own are shown before the user's history (few-shot); see `Condense` for Step 0.
    `max_tokens` bounds one answer; `max_requests`, `max_total_tokens` and `max_cost` are the budget of all calls,
    `max_cost` by the prices given.
    `adapter` is the id of an adapter that `reland tune` made for this model (engine hf).
    A table `ray` spreads the engine over workers.
    With the engine `imported` nothing is asked: `model` names the texts of `reland rationales import`.
    `embed` says which part of a rationale becomes its embedding: the recommendations of Step 2 as in the
    paper, the `summary` of Step 1, or `both`.
    """

    prompt: str = "generic"
    examples: int = Field(0, ge=0)
    condense: Condense = Condense()
    engine: str = "hf"
    model: str = "smollm2-135m-instruct"
    revision: str | None = None
    adapter: str | None = None
    batch_size: int = Field(16, ge=1)
    max_history: int = Field(20, ge=1)
    categories: int = Field(3, ge=1)
    items: int = Field(3, ge=1)
    max_tokens: int = Field(256, ge=16)
    max_requests: int | None = Field(None, ge=1)
    max_total_tokens: int | None = Field(None, ge=1)
    prompt_price: float = Field(0.0, ge=0)
    completion_price: float = Field(0.0, ge=0)
    max_cost: float | None = Field(None, gt=0)
    max_failed_fraction: float = Field(0.05, ge=0, le=1)
    max_attempts: int = Field(3, ge=1)
    embed: Literal["recommendations", "summary", "both"] = "recommendations"
    options: dict[str, Any] = {}
    ray: Ray | None = None

    @field_validator("max_cost")
    @classmethod
    def _priced(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Refuse a limit that bounds nothing; a price that is wrong itself is not in `info.data`."""
        prices = ("prompt_price", "completion_price")  # fields above this one: they are read before it
        if value is not None and not any(info.data.get(name, 1.0) for name in prices):
            raise ValueError(
                "a price above 0 beside it, or all calls cost 0: set rationales.prompt_price or "
                "rationales.completion_price (per million tokens), or limit rationales.max_total_tokens instead"
            )
        return value


class Tuning(Section):
    """How `reland tune` teaches the LLM what users of this platform choose next (LoRA, engine hf).

    `examples` users at most are learned from, `held_out` others measure it before and after. The last `horizon`
    training interactions of a user are its real answer, the history before them is the prompt.
    With `exclude_seeds` the seed users are not learned from, so that their rationales stay a fair sample.
    Only the last `layers` layers are adapted, or all: a third of them takes two thirds of the time.
    Longer examples than `max_tokens` are left out. `micro_batch_size` bounds memory and changes no result
    but rounding; a checkpoint is kept every `checkpoint_steps`.
    """

    examples: int = Field(1000, ge=1)
    held_out: int = Field(200, ge=2)
    exclude_seeds: bool = True
    horizon: int = Field(5, ge=1)
    epochs: int = Field(1, ge=1)
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    layers: int | None = Field(None, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    batch_size: int = Field(8, ge=1)
    micro_batch_size: int = Field(2, ge=1)
    max_tokens: int = Field(1024, ge=16)
    checkpoint_steps: int = Field(10, ge=1)


class TextEncoder(Section):
    """The encoder of rationale and item texts: a packaged name, a path or a Hugging Face Hub id."""

    model: str = "all-minilm-l6-v2"
    revision: str | None = None
    batch_size: int = Field(64, ge=1)


class Pool(Section):
    """The reasoning pool in Milvus: a Milvus Lite file (relative to the project) or a server's address."""

    uri: str = "pool/milvus.db"
    token: str = ""
    collection_prefix: str = Field("reland", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    index: Literal["FLAT", "HNSW", "IVF_FLAT", "AUTOINDEX"] = "FLAT"
    components: int = Field(8, ge=1)


class Match(Section):
    """How users meet seeds (Eq. 3): through `milvus`, or `exact` in memory.

    With `top_k` above 1 a user inherits a weighted sum of the rationales of that many seeds; the weights are a
    softmax over similarity / `temperature`: the smaller it is, the more the best seed counts.
    """

    matcher: Literal["milvus", "exact"] = "milvus"
    top_k: int = Field(1, ge=1, le=1000)
    temperature: float = Field(0.1, gt=0)
    batch_size: int = Field(2048, ge=1, le=16384)


class ColdStart(Section):
    """Match users of fewer than `min_interactions` by their profile (`data.columns.users.profile`).

    Their behaviour vector is predicted by a model of the users who have both, of whom `max_users` at most are
    learned from. Without a profile they keep what they have: their own vector, or no match.
    """

    enabled: bool = False
    min_interactions: int = Field(1, ge=1)
    max_users: int = Field(20_000, ge=10)


class Review(Section):
    """What `reland pool review` looks for.

    `rules` are rules of your own beside the built-in ones, as ``package.module:Class``. `words` is a file of words
    that must not be served, one a line, in place of the built-in list. `language` (en, de, fr, es, it, pt, nl) is
    what rationales are written in; without it, the language of the catalogue's titles. Two rationales are near
    duplicates from a cosine of `near_duplicate` on, of their embeddings or of their words.
    """

    rules: tuple[str, ...] = ()
    words: str | None = None
    language: Literal["en", "de", "fr", "es", "it", "pt", "nl"] | None = None
    near_duplicate: float = Field(0.97, gt=0, le=1)


class Feast(Section):
    """The Feast repository that is applied and materialized after publishing."""

    repository: str = "feature_repo"
    apply: bool = True
    materialize: bool = True


class Config(Section):
    """All of `reland.toml`."""

    name: str = Field("reland", pattern=r"^[a-z][a-z0-9_]*$")
    seed: int = 0
    data: Data
    evaluation: Evaluation = Evaluation()
    encoder: Encoder = Encoder()
    seeds: Seeds = Seeds()
    rationales: Rationales = Rationales()
    tuning: Tuning = Tuning()
    text_encoder: TextEncoder = TextEncoder()
    pool: Pool = Pool()
    match: Match = Match()
    cold_start: ColdStart = ColdStart()
    review: Review = Review()
    feast: Feast = Feast()
