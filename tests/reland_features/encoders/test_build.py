from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reland_features.config import Encoder
from reland_features.encoders import build, validate
from reland_features.encoders.base import BehaviorVectors
from reland_features.errors import ConfigError

GOOD = BehaviorVectors(pl.Series(["a", "b"]), np.ones((2, 3), np.float32), "mine", datetime(2024, 1, 1))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_encoder_for_tests.py").write_text(
        "class Mine:\n"
        "    def __init__(self, dimension, seed, power=1):\n"
        "        self.encoder_id = f'mine-{dimension}-{seed}-{power}'\n"
        "    def encode(self, interactions, as_of):\n"
        "        return None\n"
        "class NoEncoder:\n"
        "    def __init__(self, dimension, seed):\n"
        "        pass\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_encoder_for_tests", raising=False)


def test_names_dimension_options_and_seed_reach_the_encoder() -> None:
    lightgcn = build(Encoder(name="lightgcn", dimension=32, options={"layers": 3}), seed=7)
    sasrec = build(Encoder(name="sasrec", dimension=32, options={"heads": 4}), seed=7)
    assert lightgcn.encoder_id.startswith("lightgcn(dimension=32,seed=7,layers=3,")
    assert sasrec.encoder_id.startswith("sasrec(dimension=32,seed=7,")
    assert "heads=4" in sasrec.encoder_id


@pytest.mark.usefixtures("own_module")
def test_a_class_beside_the_project_is_found_and_the_path_left_as_it_was() -> None:
    before = list(sys.path)
    encoder = build(Encoder(name="own_encoder_for_tests:Mine", dimension=8, options={"power": 2}), seed=1)
    assert encoder.encoder_id == "mine-8-1-2"
    assert sys.path == before


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("lightgnc", {}, "unknown behaviour encoder"),
        ("no_such_module:Mine", {}, "cannot be imported"),
        ("own_encoder_for_tests:Other", {}, "cannot be imported"),
        ("own_encoder_for_tests:NoEncoder", {}, "no behaviour encoder"),
        ("own_encoder_for_tests:number", {}, "no class"),
        ("own_encoder_for_tests:Mine", {"layers": 2}, "does not take these options"),
        ("lightgcn", {"layer": 2}, "does not take these options"),
    ],
)
def test_what_cannot_be_built_is_said(name, options, what) -> None:
    with pytest.raises(ConfigError, match=what) as error:
        build(Encoder(name=name, options=options), seed=0)
    assert "encoder" in error.value.where
    assert error.value.got


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(ConfigError) as error:
        build(Encoder(name="lightgnc"), seed=0)
    assert error.value.hint == "--set encoder.name=lightgcn"


def test_good_vectors_pass_and_float64_becomes_float32() -> None:
    assert validate(GOOD).vectors.dtype == np.float32
    assert validate(replace(GOOD, vectors=np.ones((2, 3)))).vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (None, "no BehaviorVectors"),
        (replace(GOOD, vectors=np.ones((3, 3), np.float32)), "wrong shape"),
        (replace(GOOD, vectors=np.ones((2, 0), np.float32)), "wrong shape"),
        (replace(GOOD, vectors=np.ones(2, np.float32)), "vectors are wrong"),
        (replace(GOOD, vectors=np.ones((2, 3), np.int64)), "vectors are wrong"),
        (replace(GOOD, vectors=[[1.0]]), "vectors are wrong"),
        (replace(GOOD, vectors=np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)), "NaN or infinity"),
        (replace(GOOD, vectors=np.array([[1, 2, 3], [0, 0, 0]], np.float32)), "zero rows"),
        (replace(GOOD, user_ids=pl.Series(["a", "a"])), "user_ids are wrong"),
        (replace(GOOD, user_ids=pl.Series(["a", None])), "user_ids are wrong"),
        (replace(GOOD, user_ids=pl.Series([1, 2])), "user_ids are wrong"),
        (replace(GOOD, user_ids=["a", "b"]), "user_ids are wrong"),
        (replace(GOOD, encoder_id=""), "encoder_id"),
    ],
)
def test_broken_vectors_are_refused(broken, what) -> None:
    with pytest.raises(ConfigError, match=what):
        validate(broken)


def test_a_broken_row_is_named_by_its_user() -> None:
    with pytest.raises(ConfigError) as error:
        validate(replace(GOOD, vectors=np.array([[1, 2, 3], [0, 0, 0]], np.float32)))
    assert error.value.got == "1 of 2 rows, the first of user 'b'"


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys, reland_features.encoders, reland_features.index, reland_features.seeds, reland_features.matching; "
    )
    code += "print([m for m in ('torch', 'pymilvus', 'sklearn') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
