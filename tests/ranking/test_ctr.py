"""Click data from the marts and Feast, its controls, and the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss

from ranking.controls import CONSTANT, RATIONALES, SHUFFLED
from ranking.ctr import BASELINE, compare, main
from ranking.ctr_data import CtrData
from ranking.ctr_features import with_mart_features
from ranking.ctr_fields import FieldEncoder, Vocabulary
from ranking.ctr_fitting import CtrSettings, fit, predict
from ranking.ctr_metrics import METRICS
from ranking.fitting import TrainingDivergedError
from ranking.impressions import impression_labels
from ranking.masknet import PADDING, UNKNOWN, MaskNetSettings
from ranking.served import MartUsers
from reland_features.errors import ArtifactError, ConfigError, FeatureStoreError, TableError, TrainingFrameError
from reland_features.feast import open_store

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = MaskNetSettings(dimension=4, blocks=1, width=8, hidden=8)


@pytest.fixture(scope="module")
def data(project) -> CtrData:
    return CtrData.of(project, open_store(project.repository), candidates=6, max_users=120)


def published(project, view: str) -> pl.DataFrame:
    return pl.read_parquet(project.root / "features" / view / "run-1.parquet")


def test_rows_point_at_published_features(project, data):
    assert len(data.train.label) == len(data.test.label) == 120 * 6
    assert data.train.label.sum() == data.test.label.sum() == 120
    assert len(data.users.seed) == 120, "a user is joined once, not once a pair"
    seeds = published(project, "seed_rationale")
    # Which user stands in which row follows from what is known of each: compare as sets of whole rows.
    matches = published(project, "user_seed_match").join(
        seeds.select("seed_user_id", "rationale_embedding"), "seed_user_id"
    )
    wanted = {
        (round(row["similarity"], 6), tuple(np.round(row["rationale_embedding"], 5))) for row in matches.to_dicts()
    }
    found = {
        (round(float(s), 6), tuple(np.round(data.users.rationales[r].tolist(), 5)))
        for s, r in zip(data.users.similarity, data.users.seed, strict=True)
        if r >= 0
    }
    assert found <= wanted
    assert len(found) >= 115
    items = published(project, "item_attributes")
    text = {item: vector for item, vector in items.select("item_id", "item_text_embedding").iter_rows()}
    for row in range(0, len(data.items.item), 7):
        item = data.encoder.items.values[int(data.items.item[row]) - 1]
        np.testing.assert_array_equal(data.items.text[row], np.float32(text[item]))


def test_histories_are_the_last_items_of_the_mart(project, data):
    histories = pl.read_parquet(project.mart("user_histories"))["item_ids"].to_list()
    known = {tuple(data.encoder.items.rows(pl.Series(items))) for items in histories}
    rows = [tuple(int(i) for i in row if i != PADDING) for row in data.users.history]
    assert set(rows) <= known
    assert max(map(len, rows)) > 4


def test_the_shuffle_deals_whole_rationales_out_and_the_constant_keeps_the_mask(data):
    def rationales(users):
        return [
            tuple(row)
            for row in torch.stack([users.seed.double(), users.similarity.double(), users.cluster.double()], 1).tolist()
        ]

    own, shuffled, constant = data.users, data.shuffled(0).users, data.constant().users
    assert sorted(rationales(shuffled)) == sorted(rationales(own))
    assert sum(a == b for a, b in zip(rationales(own), rationales(shuffled), strict=True)) < 20
    assert torch.equal(shuffled.history, own.history)
    assert torch.equal(constant.seed >= 0, own.seed >= 0)
    there = own.seed >= 0
    assert constant.similarity[there].unique().numel() == 1
    np.testing.assert_allclose(constant.rationales[0], own.rationales.mean(0), atol=1e-6)


@pytest.fixture
def impressed(project, tmp_path):
    """Marts with a click and a miss for each of 40 users on each of three days after the features."""
    marts = tmp_path / "marts"
    shutil.copytree(project.marts, marts)
    rows = [
        {"user_id": f"u{n}", "item_id": f"i{(7 * n + day + side) % 60}", "is_clicked": side == 0}
        | {"shown_at": project.as_of + timedelta(days=day, minutes=n)}
        for day in range(3)
        for n in range(40)
        for side in range(2)
    ]
    pl.DataFrame(rows).with_columns(pl.col("shown_at").cast(pl.Datetime("us"))).write_parquet(
        marts / "impressions.parquet"
    )
    return dataclasses.replace(project, marts=marts)


def test_impressions_are_the_labels_where_there_are_any(impressed):
    train, test, protocol = impression_labels(impressed)
    assert (train.height, test.height) == (192, 48)
    assert train["event_timestamp"].max() <= test["event_timestamp"].min()
    assert train["event_timestamp"].n_unique() == 3, "one join a day"
    assert "240 impressions, 120 clicked" in protocol
    found = CtrData.of(impressed, open_store(impressed.repository))
    assert found.protocol == protocol
    assert float(found.train.label.mean()) == 0.5
    assert (found.users.seed >= 0).all()


def test_what_came_after_an_impression_is_not_in_its_history(impressed):
    events = pl.read_parquet(impressed.mart("interactions"), columns=["user_id", "item_id", "interacted_at"])
    middle = events["interacted_at"].sort()[events.height // 2]
    keys = pl.DataFrame({"user_id": ["u1", "u2", "u1"]}).with_columns(
        event_timestamp=pl.Series([middle, middle, events["interacted_at"].min()])
    )
    found = with_mart_features(keys, impressed, past=True)
    for user, at, history in found.select("user_id", "event_timestamp", "history").iter_rows():
        earlier = events.filter((pl.col("user_id") == user) & (pl.col("interacted_at") < at))["item_id"].to_list()
        assert (history or []) == earlier
    assert found["history"].list.len().fill_null(0).to_list()[2] == 0


def test_the_shuffle_knows_no_publication_before_the_treatment_does(impressed):
    """On the first of the three days nothing had been published: no ranker may have a rationale then."""
    path = impressed.mart("impressions")
    pl.read_parquet(path).with_columns(pl.col("shown_at") - timedelta(days=1)).write_parquet(path)
    data = CtrData.of(impressed, open_store(impressed.repository))
    assert torch.equal(data.shuffled(0).users.seed >= 0, data.users.seed >= 0)

    def coverage(given: CtrData) -> list[float]:
        there = given.users.seed.numpy() >= 0
        return [float(there[given.time == time].mean()) for time in range(3)]

    assert coverage(data) == coverage(data.shuffled(0)) == coverage(data.constant()) == [0, 1, 1]
    for time in range(3):
        own, dealt = (each.users.seed.numpy()[data.time == time] for each in (data, data.shuffled(0)))
        assert sorted(own) == sorted(dealt), "each rationale is there as often as before, day by day"


def test_a_row_is_dealt_what_its_giver_had_at_that_time_or_the_latest_before(data):
    rng = np.random.default_rng(0)
    shown = rng.random((40, 5)) < 0.5
    shown[:, 0] |= ~shown.any(1)
    shown[:10] = [True, False, True, False, True]  # users of the same times
    owner, time = np.nonzero(shown)
    n = len(owner)
    # Every row has a rationale of its own, so that what is dealt says which row it is from.
    users = dataclasses.replace(
        data.users, seed=torch.arange(n), similarity=torch.arange(n).float() + 1, cluster=torch.arange(n) + 1
    )
    dealt = dataclasses.replace(data, users=users, owner=owner, time=time).shuffled(0).users
    giver = {}
    for row, source in enumerate(dealt.seed.tolist()):
        there = source >= 0
        assert float(dealt.similarity[row]) == (source + 1 if there else 0)
        assert int(dealt.cluster[row]) == (source + 1 if there else UNKNOWN)
        if there:
            assert giver.setdefault(owner[row], owner[source]) == owner[source] != owner[row]
            before = time[(owner == owner[source]) & (time <= time[row])]
            assert time[source] == before.max()
    assert len(set(giver.values())) == len(giver) >= 38, "nobody is dealt out twice"
    for row in np.flatnonzero(dealt.seed.numpy() < 0):
        if owner[row] in giver:
            assert not ((owner == giver[owner[row]]) & (time <= time[row])).any()
    alike = np.isin(owner, np.flatnonzero((shown == shown[0]).all(1)))
    kept = dealt.seed.numpy()[alike]
    # Who was alone with other times may join them, and then one of them is dealt another's.
    assert (time[kept[kept >= 0]] == time[alike][kept >= 0]).mean() > 0.8


def test_past_histories_are_no_longer_than_the_served_ones(impressed):
    path = impressed.mart("user_histories")
    pl.read_parquet(path).with_columns(pl.col("item_ids").list.tail(3)).write_parquet(path)
    users = [f"u{n}" for n in range(40)]
    keys = pl.DataFrame({"user_id": users, "event_timestamp": [impressed.as_of] * 40})
    found = with_mart_features(keys, impressed, past=True)["history"].to_list()
    served = MartUsers.of(impressed)
    assert found == [served.history(user) for user in users]
    assert {len(history) for history in found} == {3}


def test_labels_that_cannot_be_used(impressed, project):
    store = open_store(project.repository)
    with pytest.raises(TableError, match="this project has no impressions"):
        CtrData.of(project, store, labels="impressions")
    path = impressed.mart("impressions")
    frame = pl.read_parquet(path)
    frame.with_columns(pl.col("shown_at") - timedelta(days=30)).write_parquet(path)
    with pytest.raises(TableError, match="no features had been published"):
        CtrData.of(impressed, store)
    frame.with_columns(is_clicked=pl.lit(False)).write_parquet(path)
    with pytest.raises(TableError, match="needs clicks"):
        CtrData.of(impressed, store)


class WithoutServices:
    """A repository that was applied before there were neural rankers."""

    repo_path = "feature_repo"

    def list_feature_services(self):
        return []


def test_a_repository_without_the_services_is_one_clear_error(project):
    with pytest.raises(FeatureStoreError, match="lacks feature services") as error:
        CtrData.of(project, WithoutServices())
    assert "ranker_users" in error.value.expected
    assert "feast apply" in error.value.hint


def encoder_and_frames() -> tuple[FieldEncoder, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    users = pl.DataFrame(
        {
            "user_activity__activity_level": ["L1", "L2", None],
            "user_activity__interaction_count": [1, 5, None],
            "user_seed_match__seed_user_id": ["s1", "s2", "s1"],
            "user_seed_match__similarity": [0.5, None, 0.7],
            "user_seed_match__cluster_id": [0, 3, None],
            "user_seed_match__pool_version": ["p", "p", "older"],
            "profile": ["gender: F; age: 18: or so", "gender: F", None],
            "history": [["i1", "new"], [], None],
        }
    )
    seeds = pl.DataFrame(
        {
            "seed_user_id": ["s1"],
            "seed_rationale__rationale_embedding": [[0.6, 0.8]],
            "seed_rationale__pool_version": ["p"],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": ["i1", "i2"],
            "item_attributes__brand": [None, "b"],
            "item_attributes__categories": [["x", "y"], []],
            "item_attributes__interaction_count": [3, 0],
            "item_attributes__item_text_embedding": [[1.0, 0.0], None],
        }
    )
    return FieldEncoder.fit(users, items), users, seeds, items


def test_encoding_by_hand_with_values_that_training_did_not_have():
    encoder, users, seeds, items = encoder_and_frames()
    assert encoder.profiles["gender"].values == ("F",)
    assert encoder.profiles["age"].values == (), "once is not enough"
    found = encoder.encode_users(users, seeds)
    assert found.profile.tolist() == [[0, 1], [0, 1], [0, 0]]
    assert found.activity.tolist() == [1, 2, 0]
    assert found.count.tolist() == [1, 2, 0], "⌊2·log2(1 + count)⌋ is 2 and 5, the two that there are"
    assert found.history.tolist() == [[1, 0], [PADDING] * 2, [PADDING] * 2]
    assert found.seed.tolist() == [0, -1, -1], "s2 has no rationale, and the third match is of another pool"
    assert found.similarity.tolist() == [0.5, 0, 0]
    assert found.cluster.tolist() == [1, 2, 0]
    shelf = encoder.encode_items(items)
    assert shelf.item.tolist() == [1, 2]
    assert shelf.categories.tolist() == [[1, 2], [PADDING] * 2]
    assert shelf.text.tolist() == [[1, 0], [0, 0]]
    again = FieldEncoder.from_dict(json.loads(json.dumps(encoder.as_dict())))
    assert again == encoder
    assert again.sizes == encoder.sizes


@pytest.mark.parametrize(
    ("vector", "says"),
    [([0.6, 0.8, 0.0], "wrong width"), ([float("nan"), 0.8], "not finite"), ([None, 0.8], "not finite")],
)
def test_bad_embeddings_are_named(vector, says):
    encoder, users, seeds, items = encoder_and_frames()
    for name, encode in (
        ("seed_rationale__rationale_embedding", lambda frame: encoder.encode_users(users, frame)),
        ("item_attributes__item_text_embedding", encoder.encode_items),
    ):
        frame = seeds if name.startswith("seed") else items.head(1)
        bad = frame.with_columns(pl.Series(name, [vector], dtype=pl.List(pl.Float32)))
        with pytest.raises(TrainingFrameError, match=says) as error:
            encode(bad)
        assert error.value.where == name
    with pytest.raises(TrainingFrameError, match="not finite") as error:
        encoder.encode_users(users.with_columns(user_seed_match__similarity=pl.lit(float("nan"))), seeds)
    assert error.value.where == "user_seed_match__similarity"
    with pytest.raises(TrainingFrameError, match="features are missing"):
        encoder.encode_items(items.drop("item_attributes__brand"))


def test_vocabulary():
    vocabulary = Vocabulary.of(pl.Series("x", ["b", "a", "b", None]), least=2)
    assert vocabulary.values == ("b",)
    assert vocabulary.rows(pl.Series(["b", "a", None, "b"])).tolist() == [1, 0, 0, 1]


def test_rows_without_a_user_of_both_labels_are_refused_before_training(data):
    apart = dataclasses.replace(data.test, group=np.arange(len(data.test.label)))
    with pytest.raises(TableError, match="user_auc is undefined"):
        compare(dataclasses.replace(data, test=apart), SMALL, CtrSettings(), seeds=1, report=pytest.fail)


def test_training_keeps_the_best_epoch_and_repeats_itself(data):
    one, two = (fit(data, SMALL, seed=1) for _ in range(2))
    assert one.curve == two.curve
    assert min(one.curve) < one.curve[0] or len(one.curve) == 3
    np.testing.assert_array_equal(predict(one.model, data, data.test), predict(two.model, data, data.test))
    held = data.train.part(data.train.group % 10 == 9)
    probability = predict(one.model, data, held)
    assert log_loss(held.label.numpy(), probability) == pytest.approx(min(one.curve), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_training(data):
    broken = dataclasses.replace(data, items=dataclasses.replace(data.items, text=data.items.text * float("inf")))
    with pytest.raises(TrainingDivergedError, match="not finite"):
        fit(broken, SMALL)


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_step_after_which_scores_are_nan_stops_training_though_no_batch_follows(data, rate):
    with pytest.raises(TrainingDivergedError, match="NaN scores") as raised:
        fit(data, SMALL, CtrSettings(learning_rate=rate, batch=10**6, max_epochs=2))
    assert raised.value.where == "MaskNet, validation after epoch 1"
    assert raised.value.hint == "lower learning_rate"


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": float("nan")}, {"weight_decay": -1.0}, {"batch": 0}, {"max_epochs": 0}, {"patience": 0}]
)
def test_settings_that_no_training_can_be_done_with_are_refused(wrong):
    with pytest.raises(ConfigError, match="no training can be done with") as raised:
        CtrSettings(**wrong)
    assert raised.value.where == f"ctr.{next(iter(wrong))}"


@pytest.mark.parametrize(
    "option",
    [["--candidates", "1"], ["--candidates", "0"], ["--candidates", "-5"], ["--max-users", "-1"], ["--seeds", "0"]],
)
def test_sizes_that_measure_nothing_are_one_clear_error(project, capsys, option):
    assert main(["--project", str(project.root), *option]) == 1
    printed = capsys.readouterr()
    assert option[0].strip("-").replace("-", "_") in printed.err
    assert "expected:" in printed.err
    assert not printed.out


def test_the_command_finds_what_the_rationale_decides(project, tmp_path, capsys):
    output = tmp_path / "out" / "ctr.json"
    arguments = ["--project", str(project.root), "--candidates", "12", "--max-users", "0", "--output", str(output)]
    assert main(arguments) == 0
    metrics = json.loads(output.read_text())
    rankers = {ranker["name"]: ranker for ranker in metrics["rankers"]}
    assert list(rankers) == [BASELINE, RATIONALES, SHUFFLED, CONSTANT]
    assert rankers[RATIONALES]["auc"] > 0.75
    assert max(rankers[name]["auc"] for name in (BASELINE, SHUFFLED, CONSTANT)) < 0.6, "tastes are in nothing else"
    gains = {(d["against"], d["metric"]): d for d in metrics["differences"]}
    assert set(gains) == {(name, metric) for name in (BASELINE, SHUFFLED, CONSTANT) for metric in METRICS}
    assert all(gains[name, "auc"]["low"] > 0.1 for name in (BASELINE, SHUFFLED, CONSTANT))
    assert metrics["features_run"] == "run-1"
    printed = capsys.readouterr().out
    assert f"{RATIONALES:<24}{rankers[RATIONALES]['auc']:10.4f}" in printed


def test_a_folder_without_features_is_one_clear_error(tmp_path, capsys):
    assert main(["--project", str(tmp_path)]) == 1
    assert "published no features yet" in capsys.readouterr().err


def test_an_encoder_that_knows_clusters_by_number_alone_is_of_an_older_version():
    names = ("activity", "user_count", "items", "brands", "categories", "item_count")
    values = {name: [] for name in names}
    FieldEncoder.from_dict({**values, "profiles": {}, "text": 4, "clusters": ["p/1"]})
    with pytest.raises(ArtifactError, match="older version") as caught:
        FieldEncoder.from_dict({**values, "profiles": {}, "text": 4, "clusters": ["1", "2"]})
    assert "--model masknet" in caught.value.hint
