"""The same matches with the texts dealt out among the seeds, on a toy world."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ranking.experiments.inputs import rationales_of
from ranking.experiments.runs import RunSpec
from ranking.experiments.variants import VARIANTS, main_of

PAGE = "match_or_text_made-up"


@pytest.mark.parametrize("name", ["reland", "reland_cross", "reland_top3", "kar"])
def test_whoever_inherits_has_the_same_matches_with_permuted_texts(name):
    main, permuted = VARIANTS[name], VARIANTS[VARIANTS[name].permuted]
    differs = {field for field, value in vars(main).items() if value != vars(permuted)[field]}
    assert differs == {"label", "control", "controls", "permuted"}
    assert (permuted.control, permuted.controls) == ("permuted", ())
    assert main_of(main.permuted) == name, "a search finds the settings of what it controls"


def test_what_inherits_no_text_has_none():
    names = ("own", "mean_text", "earlier_text", "reland_dated", "f_item", "reland_shuffled")
    assert not [name for name in names if VARIANTS[name].permuted]


def test_users_of_one_seed_share_another_seeds_text(world):
    root = world.projects / "made-up" / "sequential"
    own, dealt = (
        rationales_of(root, RunSpec("made-up", "sequential", "sasrec", name, seed=3))
        for name in ("reland", "reland_permuted")
    )
    assert np.array_equal(own.rows, dealt.rows)
    assert sorted(own.embeddings.tolist()) == sorted(dealt.embeddings.tolist())
    assert not np.array_equal(own.embeddings, dealt.embeddings)


def test_the_page_tells_the_text_from_the_match(world, capsys):
    (world.folder / "made-up.toml").open("a").write("[sequential.sasrec]\nfit = { max_epochs = 2 }\n")
    assert world.run("match_or_text", "--seeds", "2") == 0
    frame = pl.read_parquet(world.results / f"{PAGE}.parquet").filter(metric="ndcg", convention="masked")
    means = dict(frame.filter(pl.col("mean").is_not_null()).select("variant", "mean").rows())
    assert set(means) == {"f_item", "reland", "reland_shuffled", "reland_constant", "reland_permuted"}
    text = frame.filter(role="text").row(0, named=True)
    assert (text["variant"], text["against"], text["seeds"]) == ("reland", "reland_permuted", 2)
    assert text["value"] == pytest.approx(means["reland"] - means["reland_permuted"])
    match = frame.filter(variant="reland_permuted", role="base").row(0, named=True)
    assert match["value"] == pytest.approx(means["reland_permuted"] - means["f_item"])
    assert "+ ReLand, texts permuted" in world.text(PAGE)
    capsys.readouterr()
    assert world.run("table2", "--backbones", "sasrec", "--without-ids", "--seeds", "2") == 0
    assert "8 runs: 8 finished before, 0 to do" in capsys.readouterr().err, "runs are shared"


def test_a_variant_without_a_seeds_text_is_refused(world, capsys):
    assert world.run("match_or_text", "--variants", "mean_text") == 1
    said = capsys.readouterr().err
    assert "these variants inherit no seed's text" in said
    assert not world.raw()
