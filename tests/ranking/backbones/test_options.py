"""An option out of range is one error that names it, before anything is made."""

from __future__ import annotations

import pytest

from ranking.backbones import build
from reland_features.errors import ConfigError

SEQUENTIAL, COLLABORATIVE = ("gru4rec", "sasrec", "duorec"), ("neumf", "ngcf", "lightgcn")
WRONG = [
    *((backbone, "dimension", 0) for backbone in (*SEQUENTIAL, *COLLABORATIVE)),
    *((backbone, "batch_size", value) for backbone in (*SEQUENTIAL, *COLLABORATIVE) for value in (0, -1)),
    *((backbone, "length", 0) for backbone in SEQUENTIAL),
    *((backbone, "negatives", -1) for backbone in SEQUENTIAL),
    *((backbone, "layers", 0) for backbone in SEQUENTIAL),
    *(
        (backbone, "dropout", value)
        for backbone in (*SEQUENTIAL, "neumf", "ngcf")
        for value in (1.0, -0.1, float("nan"))
    ),
    *((backbone, "regularisation", -1e-4) for backbone in COLLABORATIVE),
    ("gru4rec", "hidden", 0),
    ("sasrec", "heads", 0),
    ("sasrec", "inner", 0),
    ("duorec", "weight", -0.1),
    ("duorec", "contrasts", 0),
    ("lightgcn", "layers", -1),
    ("itemknn", "neighbours", 0),
]


@pytest.mark.parametrize(("backbone", "option", "value"), WRONG)
def test_an_option_out_of_range_is_refused_by_name(random_split, backbone, option, value):
    with pytest.raises(ConfigError, match="no training can be done with") as raised:
        build(backbone, random_split, {option: value})
    assert (raised.value.where, raised.value.got) == (f"{backbone}.{option}", f"{option} = {value!r}")


@pytest.mark.parametrize("backbone", ["neumf", "ngcf"])
@pytest.mark.parametrize("widths", [[], [64, 0]])
def test_widths_that_are_none_are_refused(random_split, backbone, widths):
    with pytest.raises(ConfigError, match="widths of layers") as raised:
        build(backbone, random_split, {"widths": widths})
    assert (raised.value.where, raised.value.got) == (f"{backbone}.widths", str(widths))


def test_heads_that_do_not_divide_the_dimension_are_refused(random_split):
    with pytest.raises(ConfigError, match="heads do not divide") as raised:
        build("sasrec", random_split, {"dimension": 10, "heads": 3})
    assert (raised.value.where, raised.value.got, raised.value.expected) == ("sasrec", "3", "10")


def test_lightgcn_without_a_step_is_matrix_factorisation(random_split):
    backbone = build("lightgcn", random_split, {"layers": 0, "dimension": 8})
    users, items = backbone.representations("test")
    assert users.equal(backbone.users.weight)
    assert items.equal(backbone.items.weight)
