"""A data set's file is checked when it is read: what is misspelt would be passed over, and hours later be a result."""

from __future__ import annotations

import pytest

from ranking.experiments.dataset import load_dataset
from reland_features.errors import CheckError, ConfigError


def loaded(folder, text):
    path = folder / "shop.toml"
    path.write_text(text)
    return load_dataset(str(path))


@pytest.mark.parametrize(
    "text, what, hint",
    [
        ("[sequentail.sasrec]\nfit = {}", "'sequentail' is not known", "did you mean 'sequential'?"),
        ("[project.sets]\nname = 'x'", "'project.sets' is not known", "did you mean 'set'?"),
        ("[sequential.sasrek]\nfit = {}", "'sequential.sasrek' is not known", "did you mean 'sasrec'?"),
        ("[sequential.lightgcn]\nfit = {}", "'sequential.lightgcn' is not known", ""),
        ("[sequential.sasrec]\nsetting = {}", "'sequential.sasrec.setting' is not known", ""),
        (
            "[sequential.sasrec]\nquick = { option = {} }",
            "'sequential.sasrec.quick.option' is not known",
            "did you mean 'options'?",
        ),
        ("[paper.sequental.sasrec]\nid = [0.1, 0.2]", "'paper.sequental' is not known", "did you mean 'sequential'?"),
    ],
)
def test_a_name_that_is_not_known_is_told_with_the_nearest(tmp_path, text, what, hint):
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text)
    assert (raised.value.what, raised.value.hint) == (what, hint)
    assert raised.value.where == str(tmp_path / "shop.toml")


@pytest.mark.parametrize(
    "text, what",
    [
        (
            '[sequential.sasrec]\nsearch = { "options.dropout" = 0.2 }',
            "'sequential.sasrec.search.options.dropout' is wrong",
        ),
        (
            '[sequential.sasrec]\nsearch = { "options.dropout" = [] }',
            "'sequential.sasrec.search.options.dropout' is wrong",
        ),
        ("[paper.sequential.sasrec]\nid = [0.1]", "'paper.sequential.sasrec.id' is wrong"),
        ("[sequential.sasrec]\nfit = 3", "'sequential.sasrec.fit' is wrong"),
        ("[sequential.sasrec\n", "the data set's file is no TOML"),
    ],
)
def test_a_value_of_a_wrong_shape_is_told_before_anything_is_trained(tmp_path, text, what):
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text)
    assert raised.value.what == what


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    with pytest.raises(CheckError) as raised:
        loaded(tmp_path, "[sequentail.sasrec]\n[paper.sequential.sasrec]\nid = [0.1]")
    assert len(raised.value.problems) == 2
