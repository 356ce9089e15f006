from datetime import datetime

import pytest

from reland_features.config import load, parse
from reland_features.errors import CheckError, ConfigError

MINIMAL = '[data]\ninteractions = "i.parquet"\nitems = "t.parquet"\n[data.columns.interactions]\norder = "pos"\n'


@pytest.fixture
def project(tmp_path):
    (tmp_path / "reland.toml").write_text(MINIMAL)
    return tmp_path


def test_overrides_are_read_as_toml_and_else_as_text(project):
    config = load(
        project,
        ["seeds.fraction=0.02", "seeds.clusters=7", "rationales.prompt=movies", "data.as_of=2020-01-02T03:04:05Z"],
    )
    assert (config.seeds.fraction, config.seeds.clusters, config.rationales.prompt) == (0.02, 7, "movies")
    assert config.data.as_of == datetime(2020, 1, 2, 3, 4, 5)


def test_as_of_with_a_zone_is_kept_as_utc(project):
    assert load(project, ["data.as_of=2020-01-02T03:00:00+02:00"]).data.as_of == datetime(2020, 1, 2, 1)


def test_all_problems_are_reported_at_once_each_with_the_nearest_key():
    with pytest.raises(CheckError) as caught:
        parse({"data": {"interactions": "a"}, "seeds": {"fracton": 0.1, "count": 0}, "sedes": {}})
    text = str(caught.value)
    assert text.startswith("4 problems found")
    assert "did you mean 'seeds.fraction'?" in text
    assert "did you mean 'seeds'?" in text
    assert "'data.items' is missing" in text
    assert "'seeds.count' is wrong" in text


@pytest.mark.parametrize("override", ["seeds", "=1"])
def test_an_override_without_key_and_value_is_refused(project, override):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        load(project, [override])


def test_an_override_below_a_value_is_refused(project):
    with pytest.raises(ConfigError, match="below a value"):
        load(project, ["data.items.x=1"])


def test_a_folder_without_configuration_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "reland init" in caught.value.hint


def test_broken_toml_names_the_file(tmp_path):
    (tmp_path / "reland.toml").write_text("a = [")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "reland.toml" in caught.value.where


def test_a_file_in_another_encoding_than_utf_8_is_named(project):
    (project / "reland.toml").write_bytes((MINIMAL + 'name = "Café"\n').encode("latin-1"))
    with pytest.raises(ConfigError, match="not written in UTF-8") as caught:
        load(project)
    assert caught.value.where == str(project / "reland.toml")
    assert "0xe9" in caught.value.got
    assert "UTF-8" in caught.value.hint


def test_interactions_need_a_time_or_an_order():
    with pytest.raises(CheckError, match="1 problem found") as caught:
        parse({"data": {"interactions": "a", "items": "b", "columns": {"interactions": {"user_id": "u"}}}})
    assert "time column" in str(caught.value)


def test_a_cost_limit_needs_a_price(project):
    for prices in ([], ["rationales.prompt_price=0", "rationales.completion_price=0.0"]):
        with pytest.raises(CheckError, match="1 problem found") as caught:
            load(project, ["rationales.max_cost=20", *prices])
        (problem,) = caught.value.problems
        assert problem.what == "configuration key 'rationales.max_cost' is wrong"
        assert problem.got == "20"
        assert "rationales.prompt_price or rationales.completion_price" in problem.expected
    for price in ("prompt_price", "completion_price"):
        assert load(project, ["rationales.max_cost=20", f"rationales.{price}=0.1"]).rationales.max_cost == 20
    with pytest.raises(CheckError, match="1 problem found") as caught:  # one cause, one problem
        load(project, ["rationales.max_cost=20", "rationales.prompt_price=-1"])
    assert "'rationales.prompt_price' is wrong" in str(caught.value)


def test_a_query_has_more_than_the_positive(project):
    assert load(project, ["evaluation.candidates=2"]).evaluation.candidates == 2
    with pytest.raises(CheckError, match=r"'evaluation.candidates' is wrong") as caught:
        load(project, ["evaluation.candidates=1"])
    assert "greater than or equal to 2" in str(caught.value)


def test_rankers_are_measured_on_everyone_or_on_a_sample_that_tells_something(project):
    assert load(project, ["evaluation.max_users=0"]).evaluation.max_users == 0
    assert load(project, ["evaluation.max_users=10"]).evaluation.max_users == 10
    for few in (-1, 9):
        with pytest.raises(CheckError, match=r"'evaluation.max_users' is wrong"):
            load(project, [f"evaluation.max_users={few}"])


def test_an_empty_separator_of_categories_is_refused(project):
    """It would cut every text into letters."""
    with pytest.raises((CheckError, ConfigError)) as caught:
        load(project, ['data.categories_separator=""'])
    assert "'data.categories_separator' is wrong" in str(caught.value)
    assert load(project, ["data.categories_separator=,"]).data.categories_separator == ","
