"""The comparison with RecBole, without RecBole: its files, its rounds, its table."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import ours_worker
from benchmarks.recbole_data import expected_data, fingerprint, write_atomic_files
from benchmarks.recbole_rounds import Contest, Contestant, Round, play, table
from benchmarks.recbole_worker import _first, pairs_digest
from ranking.backbones import build
from ranking.fitting import FitSettings, fit
from ranking.splits import Split
from reland_features.errors import ConfigError


def frame(*pairs):
    return pl.DataFrame(pairs, schema={"user_id": pl.String, "item_id": pl.String}, orient="row")


@pytest.fixture
def split():
    """a: z x | w | y; b: x y z | y | w. Ids that a tab-separated file could not hold as they are."""
    names = {"x": "NA", "y": "null\t1", "z": "z", "w": "w"}
    return Split.from_frames(
        frame(*((u, names[i]) for u, i in ["bx", "az", "by", "ax", "bz"])),
        frame(*((u, names[i]) for u, i in ["aw", "ay", "by", "bw"])),
    )  # items by row: 0 NA (x), 1 null (y), 2 w, 3 z


def test_a_sequential_split_is_one_file_in_time_order(split, tmp_path):
    root = write_atomic_files(split, "sequential", tmp_path)
    assert (root / "sequential" / "sequential.inter").read_text().splitlines() == [
        "user_id:token\titem_id:token\ttimestamp:float",
        *("0\t3\t0", "0\t0\t1", "0\t2\t2", "0\t1\t3"),
        *("1\t0\t0", "1\t1\t1", "1\t3\t2", "1\t1\t3", "1\t2\t4"),
    ]


def test_a_collaborative_split_is_one_file_a_part(split, tmp_path):
    root = write_atomic_files(split, "collaborative", tmp_path)
    parts = {
        name: (root / "collaborative" / f"collaborative.{name}.inter").read_text().splitlines()
        for name in ("train", "valid", "test")
    }
    assert {lines.pop(0) for lines in parts.values()} == {"user_id:token\titem_id:token"}
    assert parts == {
        "train": ["0\t3", "0\t0", "1\t0", "1\t1", "1\t3"],
        "valid": ["0\t2", "1\t1"],
        "test": ["0\t1", "1\t2"],
    }


def test_files_are_written_once_and_apart_for_each_split(split, tmp_path):
    first = write_atomic_files(split, "collaborative", tmp_path)
    (first / "collaborative" / "collaborative.test.inter").write_text("kept")
    assert write_atomic_files(split, "collaborative", tmp_path) == first
    assert (first / "collaborative" / "collaborative.test.inter").read_text() == "kept"
    assert fingerprint(split) != fingerprint(split.keep_last(1))
    assert write_atomic_files(split.keep_last(1), "collaborative", tmp_path) != first


def test_recbole_must_train_on_every_pair_but_a_users_first_in_sequential_models(split):
    def digest(*pairs):
        return pairs_digest(*np.array(pairs).T)

    validation = digest((1, 1), (0, 2))
    all_pairs = digest((1, 3), (0, 3), (0, 0), (1, 0), (1, 1))  # in any order
    assert expected_data(split, "collaborative") == {"training": all_pairs, "validation": validation}
    assert expected_data(split, "sequential") == {
        "training": digest((0, 0), (1, 1), (1, 3)),
        "validation": validation,
    }
    assert digest((0, 1), (1, 0)) != digest((0, 0), (1, 1))


def test_sequential_models_refuse_another_split_than_leave_one_out(tmp_path):
    two = Split.from_frames(frame(*map(tuple, ["ax", "bx"])), frame(*map(tuple, ["ay", "az", "bx", "by", "bz", "bw"])))
    with pytest.raises(ConfigError, match="leave-one-out") as caught:
        write_atomic_files(two, "sequential", tmp_path)
    assert caught.value.got == "1 of 2 users have another split, such as b"
    assert not list(tmp_path.iterdir())


def test_a_loader_stops_after_the_first_steps_and_is_whole_again():
    loader = torch.utils.data.DataLoader(range(10), batch_size=4)
    with _first(loader, 2):
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sum(len(batch) for batch in loader) == 10


THEIRS = Contestant("RecBole SASRec", "recbole", "SASRec")
OURS = (Contestant("SASRec", "ours", "sasrec"), Contestant("DuoRec", "ours", "duorec", against="SASRec"))
CONTEST = Contest("sasrec", "sequential", THEIRS, OURS)
CONDITIONS = {"sequential": {"data": "d", "threads": 1}}


def measured(epoch, evaluation, ndcg, **part):
    return [
        {"what": "epoch", "cpu_s": epoch, "wall_s": 2 * epoch, **part},
        {"what": "evaluate", "cpu_s": evaluation, "wall_s": 2 * evaluation, "ndcg@10": ndcg},
    ]


class Worker:
    """Takes a second more each round, and is killed at the call it is told."""

    def __init__(self, killed_at=None):
        self.calls = []
        self.killed_at = killed_at

    def __call__(self, contest, one, repeat):
        if len(self.calls) == self.killed_at:
            raise KeyboardInterrupt
        self.calls.append((one.label, repeat))
        seconds = {"SASRec": 2.0, "DuoRec": 5.0, "RecBole SASRec": 100.0}[one.label]
        return measured(seconds * (repeat + 1), 1.0 + repeat, 0.04)


def test_sides_take_turns_and_the_order_alternates(tmp_path):
    worker = Worker()
    play([CONTEST], 2, CONDITIONS, worker, tmp_path / "raw.jsonl")
    assert worker.calls == [
        *(("SASRec", 0), ("DuoRec", 0), ("RecBole SASRec", 0)),
        *(("RecBole SASRec", 1), ("DuoRec", 1), ("SASRec", 1)),
    ]


def test_a_killed_run_resumes_with_the_whole_round_it_was_in(tmp_path):
    raw = tmp_path / "results" / "raw.jsonl"
    with pytest.raises(KeyboardInterrupt):
        play([CONTEST], 2, CONDITIONS, Worker(killed_at=5), raw)
    assert len(raw.read_text().splitlines()) == 1
    worker = Worker()
    resumed = play([CONTEST], 2, CONDITIONS, worker, raw)
    assert worker.calls == [("RecBole SASRec", 1), ("DuoRec", 1), ("SASRec", 1)]
    assert resumed == play([CONTEST], 2, CONDITIONS, Worker(), tmp_path / "uninterrupted.jsonl")
    assert [json.loads(line)["conditions"] for line in raw.read_text().splitlines()] == [CONDITIONS["sequential"]] * 2


@pytest.mark.parametrize(
    "contest, conditions",
    [
        (CONTEST, {"sequential": {"data": "d", "threads": 2}}),
        (Contest("sasrec", "sequential", THEIRS, (Contestant("SASRec", "ours", "sasrec", {"d": 1}),)), CONDITIONS),
    ],
)
def test_figures_of_other_conditions_or_options_are_not_reused(contest, conditions, tmp_path):
    raw = tmp_path / "raw.jsonl"
    play([CONTEST], 1, CONDITIONS, Worker(), raw)
    worker = Worker()
    play([contest], 1, conditions, worker, raw)
    assert len(worker.calls) == 1 + len(contest.ours)
    assert len(raw.read_text().splitlines()) == 2


def test_the_table_takes_ratios_within_rounds(tmp_path):
    rounds = play([CONTEST], 1, CONDITIONS, Worker(), tmp_path / "raw.jsonl")
    slower = play([CONTEST], 2, CONDITIONS, Worker(), tmp_path / "raw.jsonl")
    slower[1].measured["SASRec"] = measured(5.0, 1.0, 0.06)
    assert table([CONTEST], rounds).splitlines()[2:] == [
        "| SASRec | epoch | 2.00 | RecBole SASRec | 100.00 | 50.0× faster |   |   |",
        "| SASRec | full ranking | 1.00 | RecBole SASRec | 1.00 | 1.0× faster | 0.0400 | 0.0400 |",
        "| DuoRec | epoch | 5.00 | SASRec | 2.00 | 2.5× slower |   |   |",
        "| DuoRec | full ranking | 1.00 | SASRec | 1.00 | 1.0× faster | 0.0400 | 0.0400 |",
    ]
    assert table([CONTEST], slower).splitlines()[2:4] == [
        # 100 / 2 and 200 / 5; the medians are of each side alone.
        "| SASRec | epoch | 3.50 | RecBole SASRec | 150.00 | 45.0× faster (40.0 to 50.0) |   |   |",
        "| SASRec | full ranking | 1.00 | RecBole SASRec | 1.50 | 1.5× faster (1.0 to 2.0) | 0.0500 | 0.0400 |",
    ]
    assert "| SASRec | epoch | 4.00 |" in table([CONTEST], rounds, seconds="wall_s")


def test_a_part_of_an_epoch_is_scaled_up_named_and_has_no_quality():
    contest = Contest("sasrec", "sequential", THEIRS, OURS[:1])
    rounds = [
        Round(
            "sasrec",
            0,
            {"SASRec": measured(2.0, 1.0, 0.04), "RecBole SASRec": measured(3.0, 1.0, 0.01, steps=5, of_steps=200)},
        )
    ]
    assert table([contest], rounds).splitlines()[2:] == [
        "| SASRec | epoch | 2.00 | RecBole SASRec | 120.00 (from 2.5% of its steps) | 60.0× faster |   |   |",
        "| SASRec | full ranking | 1.00 | RecBole SASRec | 1.00 | 1.0× faster | 0.0400 | – |",
    ]


@pytest.mark.parametrize("task, convention", [("sequential", "unmasked"), ("collaborative", "masked")])
def test_our_worker_trains_from_the_start_and_ranks_as_recbole_does(split, task, convention):
    request = {"model": "gru4rec", "task": task, "options": {}, "fit": {"learning_rate": 0.1}, "epochs": 2, "seed": 3}
    *epochs, evaluation = ours_worker.measure(request, split)
    backbone = build("gru4rec", split, seed=3)
    fitted = fit(backbone, FitSettings(learning_rate=0.1, max_epochs=2, evaluate_every=2), seed=3)
    assert [epoch["what"] for epoch in epochs] == ["epoch", "epoch"]
    assert epochs[1]["loss"] == pytest.approx(fitted.curve[0].loss)  # the warm-up left no trace
    assert evaluation["what"] == "evaluate"
    assert evaluation["ndcg@10"] == pytest.approx(fitted.curve[0].metrics[f"ndcg@10_{convention}"])
    assert evaluation["hit@10"] == fitted.curve[0].metrics[f"hr@10_{convention}"]
