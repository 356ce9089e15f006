import tomllib
from pathlib import Path

import polars as pl
import pytest

from reland_features.column_names import recognise
from reland_features.config import load
from reland_features.errors import CheckError, ConfigError, TableError
from reland_features.init import make_project
from reland_features.prompts import PromptTemplate
from reland_features.sources import common_separator

TABLES = {
    "interactions": ["userId", "movieId", "rating", "timestamp"],
    "items": ["movieId", "title", "genres", "director"],
    "users": ["userId", "age", "gender", "zip_code"],
}


def names(path):
    return [(column, "VARCHAR") for column in TABLES[path.stem]]


def test_common_names_are_recognised_whatever_their_case():
    found = recognise(TABLES, {})
    assert found.columns == {
        "interactions": {"user_id": "userId", "item_id": "movieId", "interacted_at": "timestamp"},
        "items": {"item_id": "movieId", "title": "title", "brand": "director", "categories": "genres"},
        "users": {"user_id": "userId"},
    }
    assert found.profile == ("age", "gender")
    assert found.prompt == "movies"
    assert found.unused == {"interactions": ("rating",), "items": (), "users": ("zip_code",)}


def test_punctuation_and_case_of_a_name_do_not_count():
    tables = {
        "interactions": ["customerID", "SKU", "stars", "Order Date"],
        "items": ["SKU", "Product Name", "category-path"],
        "users": ["CustomerId", "Age Group"],
    }
    found = recognise(tables, {})
    assert found.columns == {
        "interactions": {"user_id": "customerID", "item_id": "SKU", "interacted_at": "Order Date"},
        "items": {"item_id": "SKU", "title": "Product Name", "categories": "category-path"},
        "users": {"user_id": "CustomerId"},
    }
    assert found.profile == ("Age Group",)
    assert found.prompt == "products"
    assert (
        recognise({**TABLES, "items": ["movie_id", "movieId", "title"]}, {}).columns["items"]["item_id"] == "movie_id"
    )


def test_every_column_that_is_missing_is_named_at_once():
    with pytest.raises(CheckError) as caught:
        recognise({"interactions": ["who", "what"], "items": ["what", "genres"]}, {})
    asked = [problem.hint for problem in caught.value.problems]
    assert [hint.split()[2] for hint in asked] == [
        "--user-id-column",
        "--item-id-column",
        "--item-id-column",
        "--title-column",
        "--time-column",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Action|Drama", "Comedy", "A, B|C"], "|"),
        (["Home > Kitchen, Dining", "Home > Garden", "Toys"], ">"),
        (["Action,Drama", "Comedy", "Drama,War", None], ","),
        (["Health, Beauty", "Toys", "Books", "Garden", "Pets"], None),
        (["Toys", "Books"], None),
    ],
)
def test_what_separates_categories_is_seen_in_the_values(tmp_path, values, expected):
    pl.DataFrame({"id": range(len(values)), "Product Category": values}).write_csv(tmp_path / "items.csv")
    assert common_separator(tmp_path / "items.csv", "Product Category") == expected


def test_lists_of_categories_need_no_separator(tmp_path):
    pl.DataFrame({"id": [1], "genres": [["A, B", "C, D"]]}).write_parquet(tmp_path / "items.parquet")
    assert common_separator(tmp_path / "items.parquet", "genres") is None


def test_the_separator_stands_in_the_configuration(tmp_path):
    sources = {name: tmp_path / f"{name}.parquet" for name in TABLES}
    asked = []
    make_project(tmp_path / "D", sources, {}, discover=names, separator=lambda *given: asked.append(given) or ">")
    assert load(tmp_path / "D").data.categories_separator == ">"
    assert asked == [(tmp_path / "items.parquet", "genres")]
    make_project(tmp_path / "E", sources, {}, discover=names, separator=lambda *given: None)
    assert load(tmp_path / "E").data.categories_separator == "|"


def test_a_named_column_goes_before_a_common_name():
    tables = {**TABLES, "items": [*TABLES["items"], "name"]}
    assert recognise(tables, {"title": "name"}).columns["items"]["title"] == "name"


def test_a_named_column_that_is_nowhere_is_an_error_that_lists_the_columns():
    with pytest.raises(TableError) as caught:
        recognise(TABLES, {"title": "titel"})
    assert "--title-column" in str(caught.value)
    assert "director" in caught.value.expected


@pytest.mark.parametrize(
    ("table", "columns", "said"),
    [
        ("interactions", ["who", "movieId", "timestamp"], "--user-id-column"),
        ("interactions", ["userId", "movieId", "rating"], "--order-column"),
        ("items", ["movieId", "genres"], "--title-column"),
    ],
)
def test_what_is_not_recognised_is_asked_for_by_option(table, columns, said):
    with pytest.raises(TableError) as caught:
        recognise({**TABLES, table: columns}, {})
    assert said in caught.value.hint


def test_an_unknown_profile_column_is_an_error():
    with pytest.raises(TableError, match="profile"):
        recognise(TABLES, {}, ["income"])


def test_a_project_holds_a_configuration_that_loads_and_both_templates(tmp_path):
    tables = tmp_path / "D" / "tables"
    sources = {name: (tables if name == "items" else tmp_path) / f"{name}.parquet" for name in TABLES}
    make_project(tmp_path / "D", sources, {}, discover=names)
    config = load(tmp_path / "D")
    assert config.data.items == "tables/items.parquet"
    assert config.data.interactions == str((tmp_path / "interactions.parquet").resolve())
    assert config.data.columns.users.profile == ("age", "gender")
    assert (tmp_path / "D" / "dbt" / "dbt_project.yml").is_file()
    assert (tmp_path / "D" / "feature_repo" / "feature_store.yaml").is_file()
    assert tomllib.loads((tmp_path / "D" / "reland.toml").read_text())["rationales"]["prompt"] == "movies"


def test_a_second_init_in_the_same_folder_is_refused(tmp_path):
    sources = {name: tmp_path / f"{name}.parquet" for name in TABLES}
    make_project(tmp_path / "D", sources, {}, discover=names)
    before = (tmp_path / "D" / "reland.toml").read_text()
    with pytest.raises(ConfigError, match="already holds a project"):
        make_project(tmp_path / "D", sources, {}, discover=names)
    assert (tmp_path / "D" / "reland.toml").read_text() == before


@pytest.fixture
def own_prompt(tmp_path, monkeypatch):
    """Work in a folder that holds `mine.toml`, a template."""
    import reland_features.prompts

    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    packaged = Path(reland_features.prompts.__file__).with_name("movies.toml")
    (folder / "mine.toml").write_text(packaged.read_text())
    return folder / "mine.toml"


def test_an_own_prompt_is_found_from_the_working_folder_as_tables_are(own_prompt):
    sources = {name: Path(f"{name}.parquet") for name in TABLES}
    make_project(Path("D"), sources, {}, discover=names, prompt="mine.toml")
    prompt = load(Path("D")).rationales.prompt
    assert prompt == str(own_prompt)
    assert PromptTemplate.load(prompt, base=Path("D").resolve()).labels["summary"] == "Step 1:"

    inside = Path("E") / "prompts" / "mine.toml"
    inside.parent.mkdir(parents=True)
    inside.write_text(own_prompt.read_text())
    make_project(Path("E"), sources, {}, discover=names, prompt=str(inside))
    assert load(Path("E")).rationales.prompt == "prompts/mine.toml"


@pytest.mark.parametrize(
    ("prompt", "content", "where"),
    [
        ("nosuch.toml", None, "work"),
        ("below/nosuch.toml", None, "work/below"),
        ("movis", None, "work/D"),
        ("broken.toml", "[", "work/broken.toml"),
        ("empty.toml", "", "work/empty.toml"),
    ],
)
def test_a_prompt_that_is_none_is_an_error_that_names_where_it_was_looked_for(own_prompt, prompt, content, where):
    if content is not None:
        Path(prompt).write_text(content)
    sources = {name: Path(f"{name}.parquet") for name in TABLES}
    with pytest.raises((ConfigError, CheckError)) as caught:
        make_project(Path("D"), sources, {}, discover=names, prompt=prompt)
    assert f"{own_prompt.parents[1] / where}\n" in f"{caught.value}\n"
    assert not Path("D").exists()


@pytest.mark.parametrize("letters", ["\U0001f600 films", "f\u00fcr", "a\x7fb\x01c", 'a"b\\ud83d'])
def test_any_letters_may_stand_in_a_path_and_a_column(tmp_path, letters):
    folder = tmp_path / letters
    sources = {name: folder / f"{name}.parquet" for name in TABLES}
    discover = lambda path: [*names(path), (f"{letters} {path.stem}", "VARCHAR")]  # noqa: E731
    profile = [f"{letters} users"]
    make_project(tmp_path / "D", sources, {}, discover=discover, profile=profile)
    config = load(tmp_path / "D")
    assert config.data.items == str(folder / "items.parquet")
    assert config.data.columns.users.profile == tuple(profile)
