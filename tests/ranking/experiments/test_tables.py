"""Tables' markdown, letter by letter, from runs whose numbers are made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from made_up import made_up

from ranking.experiments.dataset import Dataset
from ranking.experiments.tables import (
    Group,
    differences,
    differences_between,
    differences_table,
    figures,
    figures_table,
    verdicts,
)
from reland_features.errors import ArtifactError

BASE, BETTER = [0.5, 0.0, 0.5, 0.0], [1.0, 0.5, 1.0, 0.5]


def dataset() -> Dataset:
    paper = {"sequential": {"sasrec": {"f_item": [0.0811, 0.0429]}}}
    return Dataset("made-up", {}, {}, {}, {"sequential": {}, "collaborative": {}}, paper, {})


def groups(shuffled: list[float], constant: list[float], seeds: int = 1) -> list[Group]:
    values = {"f_item": BASE, "reland": BETTER, "reland_shuffled": shuffled, "reland_constant": constant}
    return [
        Group("sasrec", name, tuple(made_up(ndcg, seed=seed) for seed in range(seeds))) for name, ndcg in values.items()
    ]


def test_figures_stand_in_columns_of_their_convention_beside_the_papers():
    table = figures_table(figures(groups(BASE, BASE)[:2], dataset()))
    assert table == (
        "|  | variant | HR@10 masked | NDCG@10 masked | HR@10 unmasked | NDCG@10 unmasked "
        "| paper's HR@10 / NDCG@10 | seeds | epochs | CPU seconds |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| sasrec | + f_item | 0.5000 | 0.2500 | 0.5000 | 0.1250 | 0.0811 / 0.0429 (unmasked) | 1 | 3 | 6 |\n"
        "| sasrec | + ReLand | 1.0000 | 0.7500 | 1.0000 | 0.3750 | – | 1 | 3 | 6 |"
    )


def test_several_seeds_show_their_standard_deviation():
    runs = (made_up([0.0, 0.0], seed=0), made_up([0.2, 0.2], seed=1))
    frame = figures([Group("sasrec", "id", runs)])
    row = frame.filter((frame["metric"] == "ndcg") & (frame["convention"] == "masked")).row(0, named=True)
    np.testing.assert_allclose([row["mean"], row["sd"]], [0.1, np.sqrt(0.02)], rtol=1e-6)
    assert "0.1000 ± 0.1414" in figures_table(frame)


def test_a_difference_that_the_shuffled_control_has_too_is_no_gain():
    frame = differences(groups(shuffled=BETTER, constant=BASE))
    lines = differences_table(frame).splitlines()[2:5]
    # Every user differs by .5, so the interval is a point. Signed ranks sum to 10 of 10; by chance to 5 with
    # variance 4 * 5 * 9 / 24 - (4^3 - 4) / 48 = 2.5^2: z = 2, p = .0455.
    apart, same = ["+0.5000 [+0.5000, +0.5000]", "+200.0%", "< .001", ".046", "–"], ["+0.0000 [+0.0000, +0.0000]"]
    same += ["+0.0%", "1.000", "1.000", "–"]
    assert [line.strip("| ").split(" | ") for line in lines] == [
        ["sasrec", "+ ReLand", "+ f_item", "masked", *apart, "no"],
        ["sasrec", "+ ReLand", "+ ReLand, shuffled", "masked", *same],
        ["sasrec", "+ ReLand", "+ ReLand, constant", "masked", *apart],
    ]


def test_a_gain_beats_the_base_and_both_controls():
    key = ("sasrec", "reland", "masked")

    def verdict(found):
        frame = differences(found)
        return verdicts(frame.filter(frame["metric"] == "ndcg"))[key]

    assert verdict(groups(BASE, BASE)) == "gain (one seed)"
    assert verdict(groups(BASE, BASE, seeds=2)) == "gain"
    assert verdict(groups(BASE, BETTER)) == "no"
    assert verdict(groups(BASE, BASE)[:3]) == "controls missing"


def test_only_seeds_that_both_have_are_compared():
    base = Group("sasrec", "id", (made_up([0.0, 0.0], seed=0), made_up([1.0, 1.0], seed=1)))
    items = Group("sasrec", "f_item", (made_up([1.0, 0.5], seed=1), made_up([0.0, 0.0], seed=2)))
    frame = differences([base, items])
    row = frame.filter((frame["metric"] == "ndcg") & (frame["convention"] == "masked")).row(0, named=True)
    assert (row["value"], row["seeds"]) == (-0.25, 1)


@pytest.mark.parametrize(("of_items", "of_seed_1"), [([0, 2], [0, 1]), ([0, 1], [0, 2])])
def test_runs_of_other_users_are_not_paired(of_items, of_seed_1):
    def run(users, seed=0):
        return replace(made_up([0.5, 0.0], seed=seed), users=np.array(users, dtype=np.uint32))

    groups = [
        Group("sasrec", "id", (run([0, 1]), run(of_seed_1, seed=1))),
        Group("sasrec", "f_item", (run(of_items), run([0, 1], seed=1))),
    ]
    with pytest.raises(ArtifactError) as raised:
        differences(groups)
    assert raised.value.where == "sasrec: f_item against id"
    assert raised.value.got == "2 and 2 users, 1 of them the same"


def test_nothing_to_compare_is_an_empty_table():
    frame = differences([Group("sasrec", "id", (made_up([0.0, 0.0]),))])
    assert len(differences_table(frame).splitlines()) == 2


def test_the_whole_minus_a_part_of_another_setting_is_paired_by_user():
    part = Group("sasrec w/o sampling", "reland", (made_up([0.5, 0.5, 0.5, 0.0]),))
    found = [*groups(BASE, BASE), part]
    pairs = [(("sasrec", "reland"), (part.setting, "reland")), (("sasrec", "reland"), ("sasrec w/o prompt", "reland"))]
    frame = differences_between(found, pairs, "part")
    lines = differences_table(frame).splitlines()
    # Users differ by .5, 0, .5 and .5: t = .375 / .125 = 3 with 3 degrees of freedom, p = .0577. Signed ranks sum to
    # 6 of 6; by chance to 3 with variance 3 * 4 * 7 / 24 - (3^3 - 3) / 48 = 3: z = 3 / sqrt(3), p = .0833.
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [line[:4] for line in cells] == [
        ["sasrec", "+ ReLand", "sasrec w/o sampling: + ReLand", name] for name in ("masked", "unmasked")
    ]
    assert cells[0][4].startswith("+0.3750 [")
    assert cells[0][5:] == ["+100.0%", ".058", ".083", "–"]
    assert "gain?" not in lines[0], "no verdict: it has no controls"


def test_a_difference_that_is_claimed_besides_decides_no_verdict():
    found = [*groups(BASE, BASE, seeds=2), Group("sasrec", "kar", (made_up([1.0, 1.0, 1.0, 1.0]),))]
    own = differences(found)
    besides = differences_between(found, [(("sasrec", "reland"), ("sasrec", "kar"))], "method")
    assert (besides["low"] < 0).any()
    of_ndcg = pl.concat([besides, own]).filter(pl.col("metric") == "ndcg")
    assert verdicts(of_ndcg)["sasrec", "reland", "masked"] == "gain"
