"""Which rationale each user has in a variant."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from matched_project import make_project, of_users

from ranking.backbones.base import First, SameOutput
from ranking.compact_views import FeaturesError
from ranking.experiments import inputs
from ranking.experiments.inputs import mean_texts, own_rationales, rationales_of, sides_of
from ranking.experiments.runs import RunSpec
from ranking.experiments.seed_subset import PoolFolder, subset_rationales
from ranking.features import load_features, pool_and_vectors
from ranking.fusion import Attention, Concat, Gate
from ranking.newcomers import beginnings, newcomers, untrained, without
from ranking.point_in_time import folded_in, rationales_at_events
from ranking.project import RankingProject
from ranking.splits import Split
from reland_features.errors import ArtifactError, ConfigError
from reland_features.pool import ReasoningPool


@pytest.fixture(scope="module")
def project(prepared):
    return RankingProject.open(prepared.projects / "made-up" / "sequential")


@pytest.fixture(scope="module")
def split(project):
    return Split.of(project)


def texts(rationales) -> np.ndarray:
    """Return each user's embedding, NaN without one."""
    found = rationales.embeddings[rationales.rows[:, 0]].copy()
    found[~rationales.has] = np.nan
    return found


def test_fewer_seeds_are_the_first_drawn_and_every_user_meets_the_nearest(prepared, project, split):
    # Drawn u5, u4, u3, ...; user n points where seed n mod 6 does, so users of the seeds 0 to 2 are nearest to u3.
    assert PoolFolder.of(project).seeds(0.5).to_list() == ["u5", "u4", "u3"]
    embedding = dict(prepared.toy.pool.select("seed_user_id", "rationale_embedding").iter_rows())
    number = [int(user[1:]) % 6 for user in split.user_ids]
    expected = np.array([embedding[f"u{max(n, 3)}"] for n in number], dtype=np.float32)
    np.testing.assert_array_equal(texts(subset_rationales(project, split, 0.5)), expected)


def test_at_each_event_the_nearest_seed_but_never_ones_own_text_of_later(prepared, project, split):
    given = rationales_at_events(project, split)
    pool, behavior = pool_and_vectors(project)
    vectors = np.zeros((split.n_users, 2))
    for user, vector in zip(behavior.user_ids, behavior.vectors, strict=True):
        vectors[split.user_ids.to_list().index(user)] = vector / np.linalg.norm(vector)
    moments, users = folded_in(split, vectors)
    embedding = dict(prepared.toy.pool.select("seed_user_id", "rationale_embedding").iter_rows())
    last = dict(zip(split.user_ids, split.offsets[:-1] + split.training - 1, strict=True))
    own_later = own_now = 0
    for event, (moment, user) in enumerate(zip(moments, split.user_ids.gather(users), strict=True)):
        cosine = {
            seed: moments[last[seed]] @ moment / np.linalg.norm(moments[last[seed]]) / np.linalg.norm(moment)
            for seed in pool.frame["seed_user_id"]
            if seed != user or event >= last[user]
        }
        best = max(cosine.values())
        near = [seed for seed, value in cosine.items() if value > best - 1e-9]
        found = given.embeddings[given.rows[event, 0]].tolist()
        assert found in [embedding[seed] for seed in near]
        own_later += user in embedding and event < last[user] and len(cosine) == 5
        own_now += found == embedding.get(user)
    assert own_later > 6
    assert own_now > 3


def test_own_keeps_the_texts_of_seeds_alone(prepared, project, split):
    matches = dict(prepared.toy.matches.select("user_id", "seed_user_id").iter_rows())
    is_own = np.array([matches[user] == user for user in split.user_ids])
    assert 0 < is_own.sum() < 6
    all_users = load_features(project, split).rationales
    own = own_rationales(project, split)
    np.testing.assert_array_equal(own.has, is_own)
    np.testing.assert_array_equal(texts(own)[is_own], texts(all_users)[is_own])
    np.testing.assert_array_equal(own.embeddings, all_users.embeddings)  # runs of before read this table


@pytest.mark.filterwarnings("ignore")
def test_own_is_the_text_alone_where_a_run_mixes_several(tmp_path):
    project = make_project(tmp_path / "project", top_k=3)
    split = Split.of(project)
    seeds = ReasoningPool.read(PoolFolder.of(project).path).frame
    texts_of = {seed: [(text, 1.0)] for seed, text in seeds.select("seed_user_id", "rationale_embedding").iter_rows()}
    assert of_users(own_rationales(project, split)) == [texts_of.get(user, []) for user in split.user_ids]


def test_the_mean_text_is_that_of_the_whole_training_part_and_of_nothing_held_out(project, split):
    item_text = load_features(project, split).item_text.copy()
    spec = RunSpec("made-up", "sequential", "sasrec", "mean_text", keep_last=1, source="strong")
    assert spec.canonical().source == ""
    found = texts(rationales_of(project.root, spec.canonical()))
    for user in range(split.n_users):
        first = split.offsets[user]
        mean = item_text[split.items[first : first + split.training[user]]].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found[user], mean / np.linalg.norm(mean), atol=1e-6)
    before = texts(rationales_of(project.root, dataclasses.replace(spec, variant="earlier_text", source="")))
    for user in range(split.n_users):
        first = split.offsets[user]
        mean = item_text[split.items[first : first + split.training[user] - 1]].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(before[user], mean / (np.linalg.norm(mean) or np.nan), atol=1e-6)
    with pytest.raises(ConfigError, match="nothing that came before"):
        dataclasses.replace(spec, variant="earlier_text", keep_last=None)
    item_text[split.items[: split.training[0]]] = 0
    assert not mean_texts(split, item_text).has[0]
    assert mean_texts(split, item_text).has.any()


def test_no_seed_among_the_users_is_an_error(project, split):
    others = dataclasses.replace(split, user_ids=pl.Series([f"x{n}" for n in range(split.n_users)]))
    with pytest.raises(ConfigError, match="no user has a text of its own"):
        own_rationales(project, others)


def test_a_project_without_a_pool_says_so(project, tmp_path):
    (tmp_path / ".reland").mkdir()
    (tmp_path / ".reland" / "current.json").write_text("{}")
    with pytest.raises(ArtifactError, match="pool"):
        PoolFolder.of(dataclasses.replace(project, root=tmp_path))


def test_variants_read_what_they_say(project, split):
    def read(name, **more):
        return rationales_of(project.root, RunSpec("made-up", "sequential", "sasrec", name, **more))

    matched = load_features(project, split).rationales
    assert read("id") is None
    assert read("f_item") is None
    np.testing.assert_array_equal(texts(read("reland")), texts(matched))
    shuffled = [texts(read("reland_shuffled", seed=seed)) for seed in (0, 1)]
    np.testing.assert_array_equal(shuffled[1], texts(matched.shuffled(1)))
    assert not np.array_equal(shuffled[0], shuffled[1], equal_nan=True)
    np.testing.assert_array_equal(texts(read("cross_constant")), texts(matched.constant()))
    assert read("reland_top3").rows.shape == (split.n_users, 3)
    np.testing.assert_array_equal(texts(read("reland", seed_users=0.5)), texts(subset_rationales(project, split, 0.5)))


@pytest.mark.parametrize(
    "name, changed",
    [
        ("f_item", {"items"}),
        ("reland_without_items", {"users"}),
        ("reland_constant", {"items", "users"}),
        ("reland_cross", {"items", "users", "output"}),
        ("kar", {"items", "output"}),
        ("slim_shuffled", {"items", "output"}),
    ],
)
def test_variants_change_the_sides_they_say(project, name, changed):
    sides = sides_of(project.root, RunSpec("made-up", "sequential", "sasrec", name))
    untouched = {"items": First, "users": First, "output": SameOutput}
    assert {side for side, kind in untouched.items() if not isinstance(getattr(sides, side)(8), kind)} == changed


@pytest.mark.parametrize(
    "name, kind, dropout",
    [
        ("reland", Attention, 0.0),
        ("reland_dropout", Attention, 0.5),
        ("gate_shuffled", Gate, 0.0),
        ("reland_concat", Concat, 0.0),
    ],
)
def test_variants_fuse_as_they_say(project, name, kind, dropout):
    layer = sides_of(project.root, RunSpec("made-up", "sequential", "sasrec", name)).users(8)
    assert (type(layer.combine), layer.dropout.p) == (kind, dropout)


def test_ids_alone_need_no_features(project):
    assert sides_of(project.root, RunSpec("made-up", "sequential", "sasrec", "id")) is None


def spec_of(variant: str, known: int) -> RunSpec:
    return RunSpec("made-up", "sequential", "sasrec", variant, known=known)


def test_newcomers_are_matched_among_the_others_by_what_they_did_so_far(prepared, project, split):
    users, known = newcomers(split), 2
    met = beginnings(split, users, known)
    found = texts(rationales_of(project.root, spec_of("reland_dated", known)))
    pool, behavior = pool_and_vectors(project)
    vectors = {u: v / np.linalg.norm(v) for u, v in zip(behavior.user_ids, behavior.vectors, strict=True)}
    others = np.setdiff1d(np.arange(split.n_users), users)
    owners, taken = without(split, users).training_pairs()
    names = split.user_ids.to_list()
    assert set(owners) <= set(others)

    def item_vector(item: int, left_out: int = -1) -> np.ndarray:
        by = [u for u, i in zip(owners, taken, strict=True) if i == item]
        shares = [vectors.get(names[u], np.zeros(2)) / np.sqrt(split.training[u]) for u in by if u != left_out]
        return sum(shares, np.zeros(2)) / max(len(by), 1)

    rows = {user: row for row, user in enumerate(split.user_ids)}
    seeds = [seed for seed in pool.frame["seed_user_id"] if rows[seed] in others]
    assert 0 < len(seeds) < pool.frame.height, "a newcomer is a seed, whose text nobody is given"
    moments = [sum(item_vector(i, rows[s]) for i in taken[owners == rows[s]]) for s in seeds]
    directions = np.array([moment / np.linalg.norm(moment) for moment in moments])
    embedding = dict(prepared.toy.pool.select("seed_user_id", "rationale_embedding").iter_rows())
    compared = 0
    for start in met.offsets[:-1][np.diff(met.offsets) > 0]:
        for place in range(known):
            so_far = sum(item_vector(item) for item in met.items[start : start + place + 1])
            if so_far.any():  # somebody else took one of the items
                nearest = seeds[int((directions @ so_far).argmax())]
                np.testing.assert_array_equal(found[start + place], np.float32(embedding[nearest]))
                compared += 1
    assert compared > 10


def test_nothing_that_a_newcomer_does_later_is_in_what_anybody_is_given(project, split, monkeypatch):
    users = newcomers(split)
    first = {known: rationales_of(project.root, spec_of("reland_dated", known)) for known in (0, 1)}
    later = split.items.copy()
    for user in users:
        later[split.offsets[user] + 1 : split.offsets[user + 1]] = user % split.n_items
    other = dataclasses.replace(split, items=later)
    pool, behavior = pool_and_vectors(project)
    own = np.isin(behavior.user_ids.to_numpy(), split.user_ids.gather(users).to_numpy())
    moved = dataclasses.replace(behavior, vectors=np.where(own[:, None], -behavior.vectors[:, ::-1], behavior.vectors))
    monkeypatch.setattr("ranking.point_in_time.pool_and_vectors", lambda project: (pool, moved))
    monkeypatch.setattr(inputs, "load_split", lambda root: other)
    inputs._matched_without_newcomers.cache_clear()
    try:
        learned = rationales_of(project.root, spec_of("reland_dated", 0))
        np.testing.assert_array_equal(texts(learned), texts(first[0]))
        begun = texts(rationales_of(project.root, spec_of("reland_dated", 1)))[::2]  # after the first of two
        np.testing.assert_array_equal(begun, texts(first[1])[::2])
    finally:
        inputs._matched_without_newcomers.cache_clear()


@pytest.mark.parametrize("name", ["reland_dated", "mean_text_dated"])
def test_controls_of_newcomers_are_those_of_training_and_dealt_out_among_them(project, split, name):
    known = 2
    met, of_variant = beginnings(split, newcomers(split), known), rationales_of(project.root, spec_of(name, known))
    prefix = name.removeprefix("reland_")
    constant = rationales_of(project.root, spec_of(f"{prefix}_constant", known))
    trained = rationales_of(project.root, spec_of(f"{prefix}_constant", 0))
    np.testing.assert_array_equal(constant.embeddings, trained.embeddings)
    np.testing.assert_array_equal(constant.has, of_variant.has)
    shuffled = rationales_of(project.root, spec_of(f"{prefix}_shuffled", known))
    ends = met.offsets[1:][np.diff(met.offsets) > 0] - 2
    assert sorted(shuffled.rows[ends, 0]) == sorted(of_variant.rows[ends, 0])
    assert (shuffled.rows[ends, 0] != of_variant.rows[ends, 0]).any()


def test_the_mean_text_so_far_is_of_the_items_before_and_of_no_others(project, split):
    features = load_features(project, split)
    met = beginnings(split, newcomers(split), 2)
    found = texts(rationales_of(project.root, spec_of("mean_text_dated", 2)))
    start = met.offsets[:-1][np.diff(met.offsets) > 0][0]
    one, two = met.items[start : start + 2]
    sums = [features.item_text[one], features.item_text[one] + features.item_text[two]]
    expected = [each / np.linalg.norm(each) for each in sums]
    np.testing.assert_allclose(found[start : start + 2], expected, rtol=1e-5)
    assert len(found) == len(met.items)
    learned = rationales_of(project.root, spec_of("mean_text_dated", 0))
    assert len(learned.embeddings) == len(without(split, newcomers(split)).items), "no text of a newcomer is in it"


def test_newcomers_of_whom_no_seed_is_left_are_an_error(project, split):
    seeds = split.user_ids.is_in(pool_and_vectors(project)[0].frame["seed_user_id"].implode()).arg_true().to_numpy()
    with pytest.raises(FeaturesError, match="no seed can be matched"):
        rationales_at_events(project, untrained(split, seeds))
