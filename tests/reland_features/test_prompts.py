from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from reland_features.errors import ConfigError
from reland_features.prompts import Catalogue, HistoryItem, PromptTemplate, Step0, step2_text
from reland_features.skeleton import Choice, Fixed, Free

DATA = Path(__file__).parents[2] / "../shared/data"
PACKAGED = ("generic", "movies", "products")

FILMS = {
    "Forrest Gump (1994)": ["Comedy", "Romance", "War"],
    "Usual Suspects, The (1995)": ["Crime", "Thriller"],
    "Groundhog Day (1993)": ["Comedy", "Romance"],
    "Seventh Seal, The (Sjunde inseglet, Det) (1957)": ["Drama"],
    "Star Wars: Episode V - The Empire Strikes Back (1980)": ["Action", "Sci-Fi"],
    "Good, The Bad and The Ugly, The (1966)": ["Action", "Western"],
    "M*A*S*H (1970)": ["Comedy", "War"],
    "Psycho (1960)": ["Horror", "Thriller"],
    "Hamlet (1990)": ["Drama"],
    "Hamlet (1996)": ["Drama"],
    "Amélie (2001)": ["Comedy", "Romance"],
    "Lucas (1986)": ["Drama"],
    "Babe (1995)": ["Children's", "Comedy"],
}


def items_frame(titles: dict[str, list[str]], counts: dict[str, int] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(len(titles))],
            "title": list(titles),
            "categories": list(titles.values()),
            "interaction_count": [(counts or {}).get(title, 1) for title in titles],
        },
        schema_overrides={"categories": pl.List(pl.String)},
    )


@pytest.fixture
def movies() -> PromptTemplate:
    return PromptTemplate.load("movies")


@pytest.fixture
def films(movies) -> Catalogue:
    return movies.catalogue(items_frame(FILMS, {"Hamlet (1996)": 9}))


def write(tmp_path: Path, **changes: object) -> Path:
    """A copy of the generic template with top-level lines replaced or (None) removed."""
    text = (Path(PromptTemplate.load.__func__.__code__.co_filename).parent / "generic.toml").read_text()
    for key, value in changes.items():
        pattern = rf'(?ms)^{key} = (""".*?"""|[^\n]*)\n'
        assert re.search(pattern, text)
        text = re.sub(pattern, lambda _, value=value, key=key: "" if value is None else f"{key} = {value}\n", text)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


class TestStep0:
    def test_puts_a_title_on_one_line_and_cuts_it_at_a_word(self):
        assert Step0(max_title_chars=20).title("Nail  Lacquer,\nSimmer\u2028and Shimmer") == "Nail Lacquer, Simmer"

    def test_cuts_a_word_longer_than_the_limit(self):
        assert Step0(max_title_chars=10).title("x" * 800) == "x" * 10

    def test_drops_patterns_but_never_the_whole_title(self):
        step0 = Step0(drop_patterns=(r"(?i)free shipping!*",))
        assert step0.title("Soap FREE SHIPPING!! 3 oz") == "Soap 3 oz"
        assert step0.title("Free shipping!") == "Free shipping!"

    def test_reads_html_entities(self):
        assert Step0().title("Bath &amp; Body") == "Bath & Body"

    def test_caps_and_cleans_categories(self):
        assert Step0(max_categories=2).categories(["A\n", None, "", "A", "B", "C"]) == ("A", "B")


class TestRender:
    def test_writes_figure_3_of_the_paper(self, movies):
        history = [HistoryItem("Lucas", ("Drama",)), HistoryItem("Raiders of the Lost Ark", ("Action", "Adventure"))]
        system, user = movies.render(history, 3, 3)
        assert system["role"] == "system"
        assert user == {
            "role": "user",
            "content": "I've watched the following movies recently: 1. Lucas (Drama); 2. Raiders of the Lost Ark "
            "(Action Adventure)\nPlease analyze my film preferences and suggest new movies accordingly. Present your "
            "response as follows:\nStep 1: Based on my watching history, briefly summarize my preferences in one "
            "sentence.\nStep 2: Based on your summary, list 3 categories and 3 movies that I will watch.",
        }

    def test_leaves_out_brackets_of_an_item_without_categories(self, movies):
        assert "recently: 1. Lucas\n" in movies.render([HistoryItem("Lucas")], 3, 3)[1]["content"]

    def test_asks_for_items_only_without_categories(self, movies):
        content = movies.render([HistoryItem("Lucas")], 0, 2)[1]["content"]
        assert content.endswith("list 2 movies that I will watch.")

    def test_braces_in_titles_stay(self, movies):
        assert "1. {history} (Drama)" in movies.render([HistoryItem("{history}", ("Drama",))], 3, 3)[1]["content"]

    @pytest.mark.parametrize("name", PACKAGED)
    def test_every_packaged_template_asks_for_what_its_skeleton_writes(self, name):
        template = PromptTemplate.load(name)
        content = "".join(m["content"] for m in template.render([HistoryItem("X", ("Y",))], 4, 5))
        assert "list 4 categories and 5 " in content
        for label in template.labels.values():
            assert label in content

    def test_prompt_id_changes_with_the_content_and_only_with_it(self, movies, tmp_path):
        one = PromptTemplate.load(write(tmp_path, system='"A"'))
        assert one.prompt_id == PromptTemplate.load(write(tmp_path, system='"A"')).prompt_id
        one.parse("", Catalogue.from_items(items_frame(FILMS)))  # fills caches, which must not count
        assert PromptTemplate.load(write(tmp_path, system='"B"')).prompt_id != one.prompt_id
        assert movies.prompt_id.startswith("movies-")


class TestSkeleton:
    def test_is_the_layout(self, movies):
        skeleton = movies.skeleton({"Lucas"}, 2, 2)
        banned = frozenset({"Lucas"})
        assert skeleton == (
            Fixed("Step 1: You prefer"),
            Free(40, 3),
            Fixed("Step 2:\nCategories:\n1."),
            Choice("categories"),
            Fixed("2."),
            Choice("categories"),
            Fixed("Movies:\n1."),
            Choice("items", banned),
            Fixed("2."),
            Choice("items", banned),
        )

    def test_without_categories_has_items_only(self, movies):
        assert movies.skeleton((), 0, 1)[2:] == (Fixed("Step 2:\nMovies:\n1."), Choice("items"))


class TestLoad:
    def test_takes_a_path_relative_to_a_folder(self, tmp_path):
        write(tmp_path, name='"shop"')
        assert PromptTemplate.load("mine.toml", base=tmp_path).name == "shop"

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"user": '"{history} {n_categories}"'}, ["lacks the slot {n_items}", "mine.toml, user", "add {n_items}"]),
            ({"user": '"{histroy} {n_categories} {n_items}"'}, ["unknown slot {histroy}", "{history}"]),
            ({"user": '"{history} {n_categories} {n_items} {"'}, ["a brace that is no slot", "{{ and }}"]),
            ({"system": None}, ["lacks 'system'", "mine.toml", "add system ="]),
            ({"items": None}, ["lacks the label 'items'", "[labels]"]),
            ({"item_separator": "3"}, ["item_separator is of a wrong type", "str"]),
            ({"max_title_chars": "0"}, ["max_title_chars is wrong", "at least 1"]),
            ({"drop_patterns": '["("]'}, ["no regular expression", "[step0]"]),
            ({"name": '"x"\nitem_fromat = "y"'}, ["unknown key 'item_fromat'", "did you mean 'item_format'?"]),
            ({"name": '"x'}, ["not valid TOML"]),
        ],
    )
    def test_says_what_is_wrong_and_what_to_add(self, tmp_path, changes, expected):
        with pytest.raises(ConfigError) as raised:
            PromptTemplate.load(write(tmp_path, **changes))
        for part in expected:
            assert part in str(raised.value)

    def test_names_the_nearest_domain(self):
        with pytest.raises(ConfigError, match="did you mean 'movies'"):
            PromptTemplate.load("movie")


class TestCatalogue:
    def test_titles_that_condense_to_the_same_stay_apart(self, movies):
        long = "A very long product title that goes on and on until nobody reads it any more, "
        catalogue = Catalogue.from_items(items_frame({f"{long * 2}{n}": [] for n in "abc"}), Step0())
        assert len(set(catalogue.shown)) == 3
        assert all(len(name) <= 80 for name in catalogue.shown)
        assert [catalogue.find_titles(name) for name in catalogue.shown] == [(title,) for title in catalogue.titles]

    def test_films_of_the_same_name_keep_their_year(self, films):
        assert {"Hamlet (1990)", "Hamlet (1996)", "Lucas"} <= set(films.shown)

    def test_offers_options_on_one_line_and_leaves_empty_sets_out(self):
        catalogue = Catalogue.from_items(items_frame({"A\r\n b": [], "  ": []}))
        assert catalogue.options() == {"items": ("A b",)}
        assert catalogue.find_titles("A b") == ("A\r\n b",)

    @pytest.mark.parametrize(
        ("text", "title"),
        [
            ("forrest   gump", "Forrest Gump (1994)"),
            ("The Usual Suspects", "Usual Suspects, The (1995)"),
            ("Usual Suspects", "Usual Suspects, The (1995)"),
            ("The Seventh Seal (1957)", "Seventh Seal, The (Sjunde inseglet, Det) (1957)"),
            ("Sjunde inseglet, Det", "Seventh Seal, The (Sjunde inseglet, Det) (1957)"),
            ("Amelie", "Amélie (2001)"),
            ("MASH", None),
            ("M.A.S.H.", "M*A*S*H (1970)"),
            ("Psycho (1961)", "Psycho (1960)"),
            ("Psycho (1998)", None),  # the remake is another film
            ("Hamlet", "Hamlet (1996)"),  # the popular one
            ("Hamlet (1990)", "Hamlet (1990)"),
            ("The", None),
            ("", None),
        ],
    )
    def test_finds_what_a_name_refers_to(self, films, text, title):
        assert films.find_titles(text)[:1] == ((title,) if title else ())

    def test_finds_categories_by_case_punctuation_and_plural(self, films):
        found = [films.find_category(name) for name in ("sci fi", "Dramas", "CHILDREN’S", "Space Opera", "")]
        assert found == ["Sci-Fi", "Drama", "Children's", None, None]

    @pytest.mark.parametrize(
        "prompt, folder, categories", [("movies", "ml-1m", "genres"), ("products", "beauty", "categories")]
    )
    def test_every_option_leads_back_to_its_title(self, prompt, folder, categories):
        path = DATA / folder / "items.parquet"
        if not path.is_file():
            pytest.skip(f"{folder} is not in the shared data folder")
        frame = pl.read_parquet(path).with_columns(pl.col("item_id").cast(pl.String), categories=pl.col(categories))
        template = PromptTemplate.load(prompt)
        catalogue = template.catalogue(frame)
        assert len(set(catalogue.shown)) == len(catalogue.titles) == frame["title"].drop_nulls().n_unique()
        assert all(name == name.strip() and len(name.splitlines()) == 1 for name in catalogue.shown)
        label = template.labels["items"]
        for title, shown in list(zip(catalogue.titles, catalogue.shown, strict=True))[::7]:
            text = f"Step 1: I like it.\nStep 2:\nCategories:\n1. {catalogue.categories[0]}\n{label}\n1. {shown}\n"
            parsed = template.parse(text, catalogue)
            assert (parsed.items, parsed.reason) == ((title,), "")


ANSWER = ("Forrest Gump (1994)", "Usual Suspects, The (1995)", "Groundhog Day (1993)")
SUMMARY = "You prefer a mix of drama, thriller, and comedy movies with elements of adventure and romance."
WRITTEN = {
    "asked layout": f"Step 1: {SUMMARY}\nStep 2:\nCategories:\n1. Drama\n2. Thriller\n3. Comedy\nMovies:\n"
    "1. Forrest Gump\n2. Usual Suspects, The\n3. Groundhog Day\n",
    "figure 3": f"Step 1:\n\n{SUMMARY}\n\nCategories: Drama, Thriller, Comedy\n\nMovies: 1. Forrest Gump (Drama) "
    "2. The Usual Suspects (Thriller) 3. Groundhog Day (Comedy)",
    "one line": f"Step 1: {SUMMARY} Step 2: Categories: Drama, Thriller, and Comedy. Movies: Forrest Gump, "
    "The Usual Suspects, and Groundhog Day.",
    "markdown": f"Sure!\n\n## **Step 1: Summary**\n\n{SUMMARY}\n\n## **Step 2:**\n\n### Recommended categories\n"
    "- **Drama** - for its depth, of course\n- **Thriller**: because you like suspense and surprise\n- **Comedy**\n\n"
    "### Movies\n1. **Forrest Gump (1994)** – a warm story\n2. **The Usual Suspects** (Thriller): a twist, as Psycho\n"
    "* *Groundhog Day* by Harold Ramis\n\nEnjoy!",
    "sentence before": f"Step 1: {SUMMARY}\nStep 2: Based on my summary, here are 3 categories and 3 movies:\n"
    "Genres:\n* Drama\n* Thriller\n* Comedy\nMovies you may enjoy:\n"
    "* “Forrest Gump”\n* “The Usual Suspects”\n* “Groundhog Day”",
    "json": '```json\n{"step_1": {"summary": "' + SUMMARY + '"}, "step_2": {"categories": ["Drama", "Thriller", '
    '"Comedy"], "movies": [{"title": "Forrest Gump", "year": 1994}, "The Usual Suspects (1995)", '
    '"Groundhog Day"]}}\n```',
    "thoughts first": f"<think>Step 1: hm.\nMovies: Babe</think>Step 1: {SUMMARY}\nStep 2:\nCategories: "
    "Drama; Thriller; Comedy\nMovies:\n1) Forrest Gump\n2) The Usual Suspects\n3) Groundhog Day",
    "windows line ends": f"Step 1: {SUMMARY}\r\nStep 2:\r\nCategories:\r\n1. Drama\r\n2. Thriller\r\n3. Comedy\r\n"
    "Movies:\r\n1. Forrest Gump\r\n2. Usual Suspects, The\r\n3. Groundhog Day\r\n",
}


class TestParse:
    @pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
    def test_reads_what_llms_write(self, movies, films, text):
        parsed = movies.parse(text, films)
        assert (parsed.categories, parsed.items, parsed.reason) == (("Drama", "Thriller", "Comedy"), ANSWER, "")
        assert parsed.status == "ok"
        assert parsed.summary.endswith(SUMMARY)

    @pytest.mark.parametrize("title", ["8. Mai 1945", "2. Korintherbrief", "Der 1. April", "12) Gesichter"])
    def test_a_number_of_its_own_stays_in_a_name(self, movies, title):
        category = "20. Jahrhundert"
        names = {title: [category], "Babe (1995)": ["Drama"]}
        catalogue = movies.catalogue(items_frame(names))
        answer = {"summary": "I like it.", "categories": [category], "items": [title, "Babe (1995)"]}
        layout = f"Step 1: I like it.\nStep 2:\nCategories:\n1. {category}\nMovies:\n1. {title}\n2. Babe"
        for text in (json.dumps(answer), layout):
            parsed = movies.parse(text, catalogue)
            assert (parsed.categories, parsed.items, parsed.reason) == ((category,), (title, "Babe (1995)"), "")

    def test_the_number_of_a_list_is_not_the_one_of_a_name(self, movies):
        catalogue = movies.catalogue(items_frame({"3 Idiots": ["Drama"], "Idiots": ["Drama"], "Babe": ["Drama"]}))
        text = "Step 1: Hm.\nStep 2:\nCategories: Drama\nMovies:\n1. Babe\n2. 3 Idiots\n3. Idiots"
        assert movies.parse(text, catalogue).items == ("Babe", "3 Idiots", "Idiots")

    def test_drops_the_history_and_what_the_catalogue_lacks(self, movies, films):
        text = "Step 1: I like it.\nStep 2:\nCategories: Drama, Steampunk\nMovies:\n1. Babe\n2. Babe 7\n3. Lucas"
        parsed = movies.parse(text, films, banned={"Babe (1995)"})
        assert (parsed.categories, parsed.items, parsed.status) == (("Drama",), ("Lucas (1986)",), "ok")
        assert "Babe 7" in parsed.ungrounded

    def test_a_name_that_may_mean_a_title_of_the_history_means_it(self, movies, films):
        text = "Step 1: I like it.\nStep 2:\nCategories: Drama\nMovies:\n1. Hamlet\n2. Hamlet (1990)"
        assert movies.parse(text, films, banned={"Hamlet (1996)"}).items == ("Hamlet (1990)",)

    def test_a_known_title_that_starts_an_unknown_one_is_not_named(self, movies):
        catalogue = movies.catalogue(items_frame({"Star Wars (1977)": ["Action"], "Babe (1995)": ["Drama"]}))
        text = "Step 1: I like it.\nStep 2:\nCategories: Drama\nMovies:\n1. Star Wars: Episode I\n2. Babe"
        assert movies.parse(text, catalogue).items == ("Babe (1995)",)

    def test_keeps_at_most_what_was_asked_for_and_nothing_twice(self, movies, films):
        text = WRITTEN["asked layout"] + "4. Forrest Gump (1994)\n5. Babe\n"
        assert movies.parse(text, films, n_categories=1, n_items=4).items == (*ANSWER, "Babe (1995)")
        assert movies.parse(text, films, n_categories=1, n_items=4).categories == ("Drama",)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "the answer is empty"),
            ("I cannot help with that.", "no category of the catalogue; no title of the catalogue outside the history"),
            ("Step 1:\nStep 2:\nCategories: Drama\nMovies: 1. Babe", "no Step 1 sentence"),
            ("Step 1: Hm.\nStep 2:\nCategories: Weird\nMovies: 1. Babe", "no category of the catalogue (not in the"),
            ("Step 1: Hm.\nStep 2:\nCategories: Drama\nMovies: 1. Avatar", "(not in the catalogue: Avatar)"),
            ("Step 1: Hm.\nStep 2:\nCategories: Drama", "no title of the catalogue outside the history"),
        ],
    )
    def test_says_why_an_answer_is_not_usable(self, movies, films, text, reason):
        parsed = movies.parse(text, films)
        assert parsed.status == "invalid"
        assert reason in parsed.reason

    def test_a_catalogue_without_categories_needs_items_only(self, movies):
        catalogue = movies.catalogue(items_frame({"Babe (1995)": [], "Lucas (1986)": []}))
        parsed = movies.parse("Step 1: I like it.\nStep 2:\nMovies:\n1. Babe\n", catalogue)
        assert (parsed.status, parsed.categories, parsed.items) == ("ok", (), ("Babe (1995)",))

    def test_reads_answers_of_a_strong_llm(self, movies):
        answers, items = DATA / "llm/ml-100k_nir_threestep.parquet", DATA / "ml-100k/items.parquet"
        if not answers.is_file():
            pytest.skip("the recorded answers are not in the shared data folder")
        frame = pl.read_parquet(items).rename({"genres": "categories"}).with_columns(pl.col("item_id").cast(pl.String))
        catalogue = movies.catalogue(frame)
        good = 0
        for row in pl.read_parquet(answers).iter_rows(named=True):
            history = {t for name in row["prompt_watched"].split(", ") for t in catalogue.find_titles(name)}
            recommended = row["step3_recommendations"]
            text = f"Step 1: {row['step1_preferences']}\nStep 2:\nCategories: Drama\nMovies:\n{recommended}"
            parsed = movies.parse(text, catalogue, banned=history)
            assert not history & set(parsed.items)
            good += len(parsed.items) >= 5
        assert good >= 160  # of 170; the rest name fewer films or films that were renamed

    def test_a_comma_list_of_titles_with_commas(self, movies, films):
        text = "Step 1: Hm.\nStep 2:\nCategories: Drama\n" + (
            "Movies: Good, The Bad and The Ugly, The, Usual Suspects, The, Babe"
        )
        assert movies.parse(text, films).items == (
            "Good, The Bad and The Ugly, The (1966)",
            "Usual Suspects, The (1995)",
            "Babe (1995)",
        )


def test_step2_text_is_short_and_on_one_line():
    assert step2_text(["A", "B"], ["X", "Y\nZ"]) == "Categories: A, B. Items: X, Y Z."
    assert step2_text([], ["X"], "Movies:") == "Movies: X."
    assert len(step2_text(["A"], ["word " * 200] * 3)) < 300
