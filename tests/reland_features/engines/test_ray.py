"""Ray around an engine: what needs no cluster. With one: `-m slow` in test_conformance.py and test_kill.py."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from functools import partial

import pyarrow as pa
import pytest

from reland_features.config import Rationales, parse
from reland_features.engines import build
from reland_features.engines.base import StreamingEngine, most_tokens
from reland_features.engines.dummy import DummyEngine
from reland_features.engines.ray import RayEngine, _Worker
from reland_features.errors import CheckError, ConfigError, EngineError

from .conftest import OPTIONS, TITLES, ask_about


class Broken(DummyEngine):
    def complete(self, requests, options):
        raise EngineError("the model does not fit", got="2 GB", hint="take a smaller one")


def block(*batches) -> pa.Table:
    return pa.table({"number": list(range(len(batches))), "requests": [pickle.dumps(batch) for batch in batches]})


def test_a_table_in_the_configuration_spreads_the_engine_and_changes_no_key(tmp_path):
    alone = Rationales(engine="dummy", model="x", batch_size=5)
    spread = Rationales(engine="dummy", model="x", batch_size=5, ray={"workers": 2, "gpus": 0.5})
    one, many = build(alone, tmp_path), build(spread, tmp_path)
    assert isinstance(many, RayEngine)
    assert isinstance(many, StreamingEngine)
    assert not isinstance(one, StreamingEngine)
    for name in ("engine_id", "source", "batch_size", "parameters"):
        assert getattr(many, name) == getattr(one, name)
    assert many.count_tokens([ask_about("Film 1")]) == one.count_tokens([ask_about("Film 1")])
    assert many.complete([], OPTIONS) == []
    many.close()
    many.close()
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_the_number_of_workers_has_to_be_named():
    with pytest.raises(CheckError, match=r"rationales\.ray\.workers"):
        parse({"data": {"interactions": "i", "items": "i"}, "rationales": {"ray": {}}})


def test_it_keeps_what_callers_ask_an_engine(tmp_path):
    options = {"base_url": "http://127.0.0.1:9/v1"}
    plain = build(Rationales(engine="openai", options=options, ray={"workers": 1}), tmp_path)
    held = build(
        Rationales(engine="openai", options=options | {"structured_output": True}, ray={"workers": 1}), tmp_path
    )
    assert (plain.constrained, held.constrained) == (False, True)
    assert (plain.sends_schema, held.sends_schema) == (False, True)
    chinese = [ask_about("电影" * 9)]
    assert most_tokens(plain, chinese)[0] > plain.count_tokens(chinese)[0]  # what the budget counts


def test_missing_ray_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        RayEngine(DummyEngine, workers=2)
    assert "pip install 'reland-features[ray]'" in caught.value.hint


def test_a_worker_answers_as_its_engine_would():
    batches = [[ask_about(title) for title in TITLES[:3]], [ask_about("Film 7")]]
    worker = pickle.loads(pickle.dumps(_Worker(partial(DummyEngine, "x"), OPTIONS)))
    answered = worker(block(*batches))
    assert answered["number"].to_pylist() == [0, 1]
    results = [pickle.loads(result) for result in answered["result"].to_pylist()]
    assert results == [DummyEngine("x").complete(batch, OPTIONS) for batch in batches]


@pytest.mark.parametrize("make", [Broken, partial(DummyEngine, outcomes=["no such outcome"])])
def test_an_error_of_the_engine_travels_as_it_is(make):
    (result,) = _Worker(make, OPTIONS)(block([ask_about("Film 1")]))["result"].to_pylist()
    error = pickle.loads(result)
    assert isinstance(error, EngineError | ConfigError)
    assert error.got in ("2 GB", "no such outcome")
