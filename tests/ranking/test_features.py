"""What a ranker reads from Feast, and the controls made from it."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from feast import Entity, ValueType
from toy_project import AS_OF, CREATED_AT, make_toy, write_project

from ranking.compact_views import FeaturesError, read_view, vectors
from ranking.features import load_features, top_k
from ranking.project import RankingProject
from ranking.rationales import Rationales
from ranking.splits import Split
from reland_features.artifacts import ArtifactStore
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ArtifactError, TrainingFrameError
from reland_features.feast import open_store, rationale_views
from reland_features.pool import ReasoningPool

pytestmark = pytest.mark.filterwarnings("ignore")

TOY = make_toy()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> RankingProject:
    """30 users with a published run and nothing online."""
    root = write_project(tmp_path_factory.mktemp("features") / "project", TOY)
    user, item, seed = (
        Entity(name=name, join_keys=[f"{key}_id"], value_type=ValueType.STRING)
        for name, key in (("user", "user"), ("item", "item"), ("seed", "seed_user"))
    )
    views = rationale_views(root / "features", user=user, item=item, seed=seed)
    open_store(root / "feature_repo").apply([user, item, seed, *views])
    return RankingProject.open(root)


@pytest.fixture
def republish(small):
    """Publish changed rows of a table for the same time, later, which Feast prefers; undone after the test."""
    written = []

    def write(table: str, **columns: pl.Expr | pl.Series) -> None:
        folder = small.root / "features" / table
        frame = pl.read_parquet(folder / "run-1.parquet")
        later = pl.lit(CREATED_AT + timedelta(days=1), pl.Datetime("us"))
        frame.with_columns(created_timestamp=later, **columns).write_parquet(folder / "run-2.parquet")
        written.append(folder / "run-2.parquet")

    yield write
    for path in written:
        path.unlink()


def of_each_user(rationales: Rationales) -> list[list[float] | None]:
    """Lay the table out per user."""
    mixed = np.einsum("uk,ukd->ud", rationales.weights, rationales.embeddings[rationales.rows])
    return [row.tolist() if has else None for row, has in zip(mixed, rationales.has, strict=True)]


def test_the_compact_layout_gives_every_user_the_vector_of_the_wide_one(project):
    split = Split.of(project)
    features = load_features(project, split)
    store = open_store(project.repository)
    wide = read_view(store, "user_rationale", "user_id", split.user_ids, ["rationale_embedding"], project.as_of)
    assert of_each_user(features.rationales) == wide["rationale_embedding"].to_list()
    online = store.get_online_features(
        features=["user_rationale:rationale_embedding"],
        entity_rows=[{"user_id": user} for user in split.user_ids],
    ).to_dict()
    assert of_each_user(features.rationales) == online["rationale_embedding"]
    assert features.rationales.has.tolist() == [user != "u298" for user in split.user_ids], "u298 has no match"
    assert len(features.rationales.embeddings) == wide["rationale_embedding"].drop_nulls().n_unique()
    published = pl.read_parquet(project.root / "features" / "item_attributes" / "run-1.parquet")
    items = split.item_ids.rename("item_id").to_frame().join(published, on="item_id", maintain_order="left")
    assert features.item_text.tolist() == items["item_text_embedding"].to_list()
    assert (features.features_run, features.pool_version) == ("run-1", "pool-1")


def test_users_and_items_that_feast_does_not_know_have_none(small):
    pairs = pl.DataFrame({"user_id": ["u3", "stranger"], "item_id": ["i1", "thing"]})
    split = Split.from_frames(pairs, pl.concat([pairs, pairs]))
    features = load_features(small, split)
    assert split.user_ids.to_list() == ["stranger", "u3"]
    assert features.rationales.rows.tolist() == [[-1], [0]]
    assert features.rationales.weights.tolist() == [[0.0], [1.0]]
    assert features.item_text.any(axis=1).tolist() == [True, False]


def test_a_null_item_embedding_is_a_row_of_zeros(small, republish):
    null = pl.when(pl.col("item_id") != "i1").then("item_text_embedding")
    republish("item_attributes", item_text_embedding=null)
    split = Split.of(small)
    text = load_features(small, split).item_text
    assert (~text.any(axis=1)).tolist() == [item == "i1" for item in split.item_ids]


def test_a_seed_without_an_embedding_is_no_rationale(small, republish):
    split = Split.of(small)
    before = load_features(small, split).rationales
    matches = dict(zip(TOY.matches["user_id"], TOY.matches["seed_user_id"], strict=True))
    republish("seed_rationale", rationale_embedding=pl.when(pl.col("seed_user_id") != "u0").then("rationale_embedding"))
    after = load_features(small, split).rationales
    kept = [matches[user] != "u0" for user in split.user_ids]
    assert not all(kept)
    assert of_each_user(after) == [row if keep else None for row, keep in zip(of_each_user(before), kept, strict=True)]


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("seed_rationale", "rationale_embedding", [float("nan")] * 16, "0 are not 16 wide and 1 hold NaN"),
        ("item_attributes", "item_text_embedding", [float("inf")] * 16, "0 are not 16 wide and 1 hold NaN"),
        ("item_attributes", "item_text_embedding", [0.5] * 15, "1 are not 16 wide and 0 hold NaN"),
    ],
)
def test_a_broken_embedding_is_named_with_its_view(small, republish, table, column, value, message):
    key = pl.first()
    broken = pl.lit(pl.Series([value], dtype=pl.List(pl.Float32)))
    republish(table, **{column: pl.when(key.is_in(["u1", "i1"])).then(broken).otherwise(column)})
    with pytest.raises(FeaturesError, match="embeddings cannot be used") as error:
        load_features(small, Split.of(small))
    assert error.value.where == f"{table}:{column}"
    assert message in error.value.got


def test_rationales_that_are_all_null_are_an_error(small, republish):
    republish("seed_rationale", rationale_embedding=pl.lit(None, pl.List(pl.Float32)))
    with pytest.raises(FeaturesError, match="no rationale has an embedding") as error:
        load_features(small, Split.of(small))
    assert error.value.where == "seed_rationale:rationale_embedding"
    republish("user_seed_match", seed_user_id=pl.lit(None, pl.String))
    with pytest.raises(FeaturesError, match="no user has a rationale"):
        load_features(small, Split.of(small))


def test_rows_of_another_pool_are_an_error(small, republish):
    republish("user_seed_match", pool_version=pl.lit("pool-2"))
    with pytest.raises(FeaturesError, match="another reasoning pool") as error:
        load_features(small, Split.of(small))
    assert "29 rows of pool pool-2" in error.value.got


def test_a_join_that_loses_rows_is_an_error(small):
    store = open_store(small.repository)

    class Losing:
        def get_historical_features(self, entity_df, **options):
            return store.get_historical_features(entity_df.iloc[1:], **options)

    with pytest.raises(TrainingFrameError, match="did not return the rows") as error:
        read_view(Losing(), "user_seed_match", "user_id", pl.Series(["u1", "u2"]), ["similarity"], AS_OF)
    assert "1 rows" in error.value.got
    assert "2 rows" in error.value.expected


def test_vectors_of_a_column():
    lists = pl.Series([[1.0, 2.0], None, [], [3.0, 4.0]], dtype=pl.List(pl.Float32))
    matrix, present = vectors(lists, "view:feature")
    assert matrix.tolist() == [[1, 2], [0, 0], [0, 0], [3, 4]]
    assert matrix.dtype == np.float32
    assert present.tolist() == [True, False, False, True]
    assert vectors(lists[1:3], "view:feature")[0].shape == (2, 0)
    worse = pl.Series([[1.0, 2.0], [1.0], [None, 3.0], [np.nan], [1.0, 1.0]], dtype=pl.List(pl.Float32))
    with pytest.raises(FeaturesError) as error:
        vectors(worse, "view:feature")
    assert "of 5 rows, 2 are not 2 wide and 2 hold NaN" in error.value.got


# --- several seeds per user ---


@pytest.fixture
def pooled(small):
    """Artifacts of a pool whose seed n lies at angle 10n degrees, and users at angles of their own."""
    split = Split.of(small)
    angles = {user: 7.0 * n for n, user in enumerate(split.user_ids) if user != "u5"}  # u5 has no vector

    def at(degrees):
        radians = np.radians(np.asarray(degrees, dtype=np.float64))
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    store = ArtifactStore(small.root / ".reland" / "artifacts")
    made = {"created_at": CREATED_AT, "config": {}, "as_of": AS_OF}
    with store.create("behavior_vectors", "behavior_vectors-1", inputs=[], **made) as draft:
        BehaviorVectors(pl.Series(list(angles)), at(list(angles.values())), "e", AS_OF).write(
            draft.table("behavior_vectors")
        )
        draft.facts["encoder_id"] = "e"
    with store.create("reasoning_pool", "reasoning_pool-1", inputs=["behavior_vectors-1", "seeds-1"], **made) as draft:
        vector = pl.Series(at([10.0 * n for n in range(6)]), dtype=pl.Array(pl.Float32, 2)).arr.to_list()
        ReasoningPool(TOY.pool.with_columns(vector.alias("vector")), "pool-1", "e", {}, AS_OF).write(draft.path)
        draft.facts["pool_version"] = "pool-1"
    return split, angles


def test_top_k_by_hand(small, pooled):
    split, angles = pooled
    given = top_k(small, split, 3, temperature=0.5)
    seeds = dict(zip(TOY.pool["seed_user_id"], TOY.pool["rationale_embedding"].to_list(), strict=True))
    for user, row, weights in zip(split.user_ids, given.rows, given.weights, strict=True):
        if user == "u5":
            assert row.tolist() == [-1, -1, -1]
            assert weights.tolist() == [0, 0, 0]
            continue
        cosine = np.cos(np.radians(angles[user] - 10 * np.arange(6)))
        best = np.argsort(-cosine)[:3]
        if len(np.unique(np.round(cosine, 5))) < 6:
            continue  # halfway between two seeds
        assert given.embeddings[row].tolist() == [seeds[f"u{n}"] for n in best]
        shares = np.exp(cosine[best] / 0.5)
        np.testing.assert_allclose(weights, shares / shares.sum(), atol=1e-5)


def test_top_1_is_equation_3(small, pooled):
    split, angles = pooled
    given = top_k(small, split, 1)
    seeds = TOY.pool["rationale_embedding"].to_list()
    degrees = np.array([angles.get(user, np.nan) for user in split.user_ids])
    nearest = np.cos(np.radians(degrees[:, None] - 10 * np.arange(6))).argmax(axis=1)
    expected = [None if np.isnan(d) else seeds[n] for d, n in zip(degrees, nearest, strict=True)]
    assert of_each_user(given) == expected
    assert given.weights[:, 0].tolist() == given.has.tolist()


def test_a_low_temperature_is_the_best_seed(small, pooled):
    split, _ = pooled
    sharp, best = top_k(small, split, 4, temperature=1e-4), top_k(small, split, 1)
    decided = sharp.weights[:, 0] > 0.999
    assert decided.sum() > 20
    np.testing.assert_array_equal(sharp.embeddings[sharp.rows[decided, 0]], best.embeddings[best.rows[decided, 0]])


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (7, 0.1), (2, 0.0)])
def test_seeds_that_are_not_there(small, pooled, k, temperature):
    with pytest.raises(FeaturesError, match="no such nearest seeds") as error:
        top_k(small, pooled[0], k, temperature=temperature)
    assert "k from 1 to 6" in error.value.expected


def test_without_the_pools_folder_the_error_says_so(project):
    with pytest.raises(ArtifactError, match="pool or its behaviour vectors"):
        top_k(project, Split.of(project), 2)


# --- controls ---

GIVEN = Rationales(
    np.array([[1, 0], [0, 1], [2, 5]], dtype=np.float32),
    np.array([[0, 2], [1, -1], [-1, -1], [2, 1], [0, 1]]),
    np.array([[0.75, 0.25], [1, 0], [0, 0], [0.5, 0.5], [0.9, 0.1]], dtype=np.float32),
)


def test_shuffled_deals_the_same_rationales_to_other_users():
    dealt = GIVEN.shuffled(1)
    together = np.concatenate([dealt.rows, dealt.weights], axis=1)
    before = np.concatenate([GIVEN.rows, GIVEN.weights], axis=1)
    assert sorted(together.tolist()) == sorted(before.tolist())
    assert not np.array_equal(together, before)
    assert dealt.embeddings is GIVEN.embeddings
    assert np.array_equal(GIVEN.shuffled(1).rows, dealt.rows)
    assert len({GIVEN.shuffled(seed).rows.tobytes() for seed in range(10)}) > 5
    assert len({GIVEN.shuffled(seed).has.tobytes() for seed in range(10)}) > 1, "nobody's rationale is dealt too"


def test_permuted_deals_the_texts_out_among_the_seeds_and_keeps_every_match():
    dealt = GIVEN.permuted(2)
    assert sorted(dealt.embeddings.tolist()) == sorted(GIVEN.embeddings.tolist())
    assert not np.array_equal(dealt.embeddings, GIVEN.embeddings)
    assert np.array_equal(GIVEN.permuted(2).embeddings, dealt.embeddings)
    assert dealt.rows is GIVEN.rows
    assert dealt.weights is GIVEN.weights
    assert len({GIVEN.permuted(seed).embeddings.tobytes() for seed in range(40)}) == 6, "each order of three"


def test_constant_is_the_mean_of_the_table_for_all_who_have_one():
    constant = GIVEN.constant()
    assert of_each_user(constant) == [[1, 2], [1, 2], None, [1, 2], [1, 2]]


def test_of_users_gives_each_its_own():
    texts = np.array([[1, 2], [0, 0], [5, 6]], dtype=np.float32)
    assert of_each_user(Rationales.of_users(texts)) == texts.tolist()
    own = Rationales.of_users(texts, np.array([True, False, True]))
    assert of_each_user(own) == [[1, 2], None, [5, 6]]
    assert own.embeddings.tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize("users", [np.array([0, 3]), np.array([True, False, False, True, False])])
def test_without_takes_rationales_away(users):
    kept = GIVEN.without(users)
    assert kept.has.tolist() == [False, True, False, False, True]
    assert np.array_equal(kept.rows[[1, 4]], GIVEN.rows[[1, 4]])
    assert kept.weights.sum(axis=1).tolist() == [0, 1, 0, 0, 1]
    assert GIVEN.has.sum() == 4, "the original stays"


@pytest.mark.parametrize(
    ("embeddings", "rows", "weights", "message"),
    [
        ([[1.0, np.nan], [1, 1]], [[0]], [[1.0]], "1 embeddings hold NaN"),
        ([[1.0, 2.0]], [[1], [-2], [0]], [[1.0], [0], [1]], "2 users have rows outside"),
        ([[1.0, 2.0]], [[0], [0], [-1]], [[1.0], [0.5], [0]], "1 users have weights"),
        ([[1.0, 2.0]], [[0]], [[1.0, 0.0]], "these are no rationales"),
        ([1.0, 2.0], [[0]], [[1.0]], "these are no rationales"),
        (np.zeros((0, 2)), [[-1]], [[0.0]], "there are no rationales"),
    ],
)
def test_what_cannot_be_rationales(embeddings, rows, weights, message):
    with pytest.raises(FeaturesError, match=message):
        Rationales(np.array(embeddings, dtype=np.float32), np.array(rows), np.array(weights, dtype=np.float32))
