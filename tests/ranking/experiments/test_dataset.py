"""The data sets' files, and how hyperparameters are put together from them."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date, time

import polars as pl
import pytest

from ranking.backbones import COLLABORATIVE, SEQUENTIAL, build
from ranking.experiments import toml
from ranking.experiments.dataset import TASKS, dataset_names, load_dataset, task_of
from ranking.experiments.prepare import settings
from ranking.experiments.trials import combinations
from ranking.experiments.variants import VARIANTS, with_controls
from ranking.splits import Split
from reland_features.config import parse
from reland_features.errors import ConfigError

EVENTS = {"user_id": ["a", "a", "b", "b"], "item_id": ["x", "y", "y", "z"]}
SPLIT = Split.from_frames(pl.DataFrame(EVENTS), pl.DataFrame({"user_id": ["a", "a"], "item_id": ["z", "w"]}))
FILE = """
[project.init]
order_column = "pos"
[project.set]
"seeds.fraction" = 0.5
[sources.direct]
"rationales.prompt" = "{prompts}/direct.toml"
[sequential.sasrec]
options = { dimension = 8, dropout = 0.5 }
fit = { learning_rate = 0.01 }
cut = { options = { negatives = 9 }, fit = { learning_rate = 0.5, max_epochs = 5 } }
quick = { options = { negatives = 4 }, fit = { max_epochs = 2 } }
search = { "options.dropout" = [0.1, 0.2], "fit.learning_rate" = [0.1, 0.01, 0.001] }
[paper.sequential.sasrec]
id = [0.2, 0.1]
"""


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "made-up.toml").write_text(FILE)
    return load_dataset(str(tmp_path / "made-up.toml"))


def test_quick_and_overrides_change_only_what_they_name(dataset):
    plain = dataset.hyperparameters("sequential", "sasrec")
    assert plain.options == {"dimension": 8, "dropout": 0.5}
    assert (plain.fit.learning_rate, plain.fit.max_epochs, plain.fit.patience) == (0.01, 200, 10)

    quick = dataset.hyperparameters("sequential", "sasrec", quick=True, overrides={"options.dropout": 0.1})
    assert quick.options == {"dimension": 8, "dropout": 0.1, "negatives": 4}
    assert (quick.fit.learning_rate, quick.fit.max_epochs) == (0.01, 2)


def test_cut_users_have_hyperparameters_of_their_own_and_quick_ones_go_before_them(dataset):
    cut = dataset.hyperparameters("sequential", "sasrec", cut=True)
    assert cut.options == {"dimension": 8, "dropout": 0.5, "negatives": 9}
    assert (cut.fit.learning_rate, cut.fit.max_epochs) == (0.5, 5)

    quick = dataset.hyperparameters("sequential", "sasrec", cut=True, quick=True, overrides={"fit.patience": 1})
    assert quick.options["negatives"] == 4
    assert (quick.fit.learning_rate, quick.fit.max_epochs, quick.fit.patience) == (0.5, 2, 1)


def test_a_search_of_cut_or_quick_trainings_leaves_out_what_these_set(dataset):
    space = dataset.search_space("sequential", "sasrec")
    assert set(space) == {"options.dropout", "fit.learning_rate"}
    assert set(dataset.search_space("sequential", "sasrec", cut=True)) == {"options.dropout"}
    assert dataset.search_space("sequential", "sasrec", quick=True) == space  # which sets neither


def test_a_search_of_cut_users_has_the_lists_that_stand_there(tmp_path):
    lists = 'search = { "fit.learning_rate" = [0.5, 0.1], "fit.max_epochs" = [5, 9] }'
    (tmp_path / "own.toml").write_text(FILE.replace("max_epochs = 5 } }", "max_epochs = 5 }, " + lists + " }"))
    own = load_dataset(str(tmp_path / "own.toml"))
    assert own.hyperparameters("sequential", "sasrec", cut=True).fit.max_epochs == 5
    cut = {"fit.learning_rate": [0.5, 0.1], "fit.max_epochs": [5, 9]}
    assert own.search_space("sequential", "sasrec", cut=True) == cut
    assert own.search_space("sequential", "sasrec", cut=True, quick=True) == {"fit.learning_rate": [0.5, 0.1]}
    assert "fit.max_epochs" not in own.search_space("sequential", "sasrec")


@pytest.mark.parametrize("name", dataset_names())
def test_no_search_of_cut_or_quick_trainings_stops_them_before_their_own_last_epoch(name):
    dataset = load_dataset(name)
    for backbone in SEQUENTIAL + COLLABORATIVE:
        task = task_of(backbone)
        for how in ({"cut": True}, {"quick": True}, {"cut": True, "quick": True}):
            held, space = dataset.hyperparameters(task, backbone, **how), dataset.search_space(task, backbone, **how)
            assert space
            for trial in combinations(space, 20):
                tried = dataset.hyperparameters(task, backbone, **how, overrides=trial).fit
                assert (tried.max_epochs, tried.schedule) == (held.fit.max_epochs, held.fit.schedule)


@pytest.mark.parametrize("key", ["dropout", "optimizer.rate", "fit.rate"])
def test_an_override_of_nothing_is_an_error(dataset, key):
    with pytest.raises(ConfigError, match="has no such name"):
        dataset.hyperparameters("sequential", "sasrec", overrides={key: 1})


def test_an_unknown_data_set_names_the_known_ones():
    with pytest.raises(ConfigError) as error:
        load_dataset("nosuch")
    assert "beauty" in error.value.expected


@pytest.mark.parametrize("name", dataset_names())
def test_the_files_hold_every_backbone_and_a_valid_project(name):
    dataset = load_dataset(name)
    for backbone in SEQUENTIAL + COLLABORATIVE:
        task = task_of(backbone)
        assert dataset.backbones[task][backbone]["fit"]
        assert set(dataset.paper[task][backbone]) >= {"id", "f_item", "reland"}
        either = (False, True)
        found = [dataset.hyperparameters(task, backbone, cut=cut, quick=quick) for cut in either for quick in either]
        for cut in either:
            space = dataset.search_space(task, backbone, cut=cut)
            trials = combinations(space, 2)
            found += [dataset.hyperparameters(task, backbone, cut=cut, overrides=trial) for trial in trials]
        for each in found:  # raises ConfigError for an option that the backbone does not have
            build(backbone, SPLIT, each.options)


@pytest.mark.parametrize("task", TASKS)
def test_settings_make_a_valid_configuration(dataset, task):
    values: dict = {"data": {"interactions": "i", "items": "i"}}
    found = settings(dataset, task, "direct", ["seeds.count=7", "name=other"])
    for key, value in found.items():
        *tables, last = key.split(".")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    config = parse(tomllib.loads(toml.dumps(values)))
    assert (config.data.user_k_core, config.data.item_k_core) == (5, 5)
    assert (config.seeds.fraction, config.seeds.count, config.name) == (0.5, 7, "other")
    assert config.evaluation.command == ()
    assert config.evaluation.test_fraction == (0.1 if task == "collaborative" else 0.0)
    assert config.rationales.prompt.endswith("experiments/prompts/direct.toml")


def test_an_unknown_source_is_an_error_that_names_the_known_ones(dataset):
    with pytest.raises(ConfigError) as error:
        settings(dataset, "sequential", "nosuch")
    assert error.value.expected == "direct"


def test_toml_reads_back_what_was_written():
    values = {
        "a": 1,
        "b": 1e-4,
        "c": "tab\t\"quote\" \x00 \x7f \u00fc \U0001f600",
        "d": True,
        "e": [1, 2.5],
        "t": {"options.dropout": [0.1], "u": {"x": "y"}, "empty": {}, "\U0001f600\x7f": [""]},
        "last": {"z": -0.5},
    }  # fmt: skip
    assert tomllib.loads(toml.dumps(values)) == values


def test_dates_of_a_file_and_of_set_are_text(dataset):
    dated = replace(dataset, settings={"a": [date(2024, 3, 1)], "b": {"c": time(12, 30)}})
    made = settings(dated, "sequential", "", ["data.as_of=2024-03-01", "d=2024-03-01T12:00:00Z"])
    assert (made["a"], made["b"], made["data.as_of"]) == (["2024-03-01"], {"c": "12:30:00"}, "2024-03-01")
    assert made["d"] == "2024-03-01T12:00:00+00:00"


def test_search_takes_all_combinations_or_different_ones_at_random(dataset):
    space = dataset.search_space("sequential", "sasrec")
    everything = combinations(space, 6)
    assert len({tuple(trial.items()) for trial in everything}) == 6
    some = combinations(space, 4)
    assert len({tuple(trial.items()) for trial in some}) == 4
    assert all(trial in everything for trial in some)
    assert combinations(space, 4) == some


def test_every_variant_with_rationales_has_both_controls():
    for name, variant in VARIANTS.items():
        if variant.reads_rationales and not variant.control:
            assert [VARIANTS[control].control for control in variant.controls] == ["shuffled", "constant"]
            assert variant.base in VARIANTS
            assert {*variant.controls, variant.base, name} == set(with_controls((name,)))


def test_a_control_differs_from_its_variant_in_the_texts_alone():
    for variant in VARIANTS.values():
        for control in (VARIANTS[name] for name in variant.controls):
            same = ("item_text", "texts", "fusion", "dropout", "output", "base")
            assert [getattr(control, each) for each in same] == [getattr(variant, each) for each in same]
            assert control.control
