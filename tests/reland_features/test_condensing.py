"""Step 0 for noisy histories: titles, repeated items, tokens; and that it is off unless asked for."""

from __future__ import annotations

import polars as pl
import pytest

from reland_features.config import Condense, Rationales, parse
from reland_features.engines.dummy import DummyEngine
from reland_features.errors import CheckError, ConfigError
from reland_features.prompts import Condensing, HistoryItem, PromptTemplate
from reland_features.seed_requests import histories_of_seeds, plan_requests
from reland_features.seed_tables import SeedTables

ON = Condense(enabled=True)


class TestTitles:
    @pytest.mark.parametrize(
        ("title", "shown"),
        [
            ("🔥🔥 NARS Blush — www.shop.example/x?y=1", "NARS Blush"),
            ("Soap (see https://shop.example/a) 3 oz", "Soap (see 3 oz"),
            ("OPI Nail Lacquer™ ★★★", "OPI Nail Lacquer"),
            ("BRAND NEW 3 PIECE MAKEUP SET", "Brand New 3 Piece Makeup Set"),
            ("CRÈME ÉCLAT VISAGE &amp; CORPS", "Crème Éclat Visage & Corps"),
            ("USB HDMI VGA cable", "USB HDMI VGA cable"),
            ("Love Potion®: a blend", "Love Potion: a blend"),
            ("ACME CRESCENT SMART LAMP X-1801", "Acme Crescent Smart Lamp X-1801"),
            ("WALL-E", "WALL-E"),
            ("M*A*S*H (1970)", "M*A*S*H (1970)"),
            ("C++ in 5 days!!!", "C++ in 5 days!"),
            ("Really?!?! Yes", "Really? Yes"),
            ("🔥", "🔥"),
        ],
    )
    def test_lose_what_promotes_and_keep_what_names(self, title, shown):
        assert Condensing().title(title) == shown

    def test_lose_the_template_s_patterns_and_your_own_but_never_everything(self):
        own = Condense(enabled=True, patterns=(r"(?i)\bby acme\b",))
        step0 = PromptTemplate.load("products", condense=own).step0
        assert step0.title("Buy 1 get 1 free!! Soap by ACME 20% off") == "Soap"
        assert step0.title("**Soap** ★SALE TODAY!★ Fig") == "Soap Fig"
        assert step0.title("Buy 1 get 1 free") == "Buy 1 get 1 free"
        assert PromptTemplate.load("products", condense=ON).step0.title("Soap by ACME") == "Soap by ACME"

    def test_a_pattern_that_is_no_regular_expression_is_a_problem_of_the_configuration(self):
        values = {"data": {"interactions": "a", "items": "b"}, "rationales": {"condense": {"patterns": ["("]}}}
        with pytest.raises(CheckError, match=r"(?s)rationales.condense.patterns.*no regular expression"):
            parse(values)


def test_a_repeated_item_is_shown_once_where_it_stands_last():
    history = [HistoryItem(title) for title in "ABACB"]
    assert [item.title for item in Condensing().items(history)] == ["A", "C", "B"]
    assert [item.title for item in Condensing(dedupe=False).items(history)] == list("ABACB")


def test_says_how_many_are_left_out_and_nothing_where_all_are_shown():
    template = PromptTemplate.load("movies", condense=ON)
    lucas = [HistoryItem("Lucas", ("Drama",))]
    assert "recently: (and 12 films before these) 1. Lucas (Drama)\n" in template.render(lucas, 3, 3, 12)[-1]["content"]
    assert "recently: 1. Lucas (Drama)\n" in template.render(lucas, 3, 3)[-1]["content"]
    assert "recently: 1. Lucas (Drama)\n" in PromptTemplate.load("movies").render(lucas, 3, 3, 12)[-1]["content"]


class Shop:
    """Three seeds: one with a long history and repetitions, one with a short one, one with one item."""

    items = pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(30)],
            "title": [f"Product number {n} with several words" for n in range(30)],
            "categories": [["Soap", "Bath"]] * 30,
        }
    )
    histories = pl.DataFrame(
        {
            "user_id": ["long", "short", "one"],
            "item_ids": [["i0", *[f"i{n}" for n in range(20)], "i3"], ["i1", "i2"], ["i5"]],
            "interaction_count": [122, 2, 1],
        }
    )
    tables = SeedTables(histories.select("user_id"), histories, items, seen=histories)

    def plan(self, **condense):
        settings = Rationales(engine="dummy", prompt="products", condense=Condense(enabled=True, **condense))
        template = PromptTemplate.of(settings)
        return plan_requests(self.tables, template, DummyEngine(), settings)


class TestTokens:
    def test_the_newest_items_that_fit_are_shown(self):
        limit = 200
        plan = Shop().plan(max_prompt_tokens=limit)
        asks = {ask.seed_user_id: ask for ask in plan.roots}
        shown = {seed: len(history.shown) for seed, history in plan.histories.items()}
        per_item = 9  # "20. Product number 3 with several words (Soap, Bath);"
        assert limit - per_item < asks["long"].prompt_tokens <= limit
        assert (shown["short"], shown["one"]) == (2, 1)
        assert [item.title.split()[2] for item in plan.histories["long"].shown][-3:] == ["18", "19", "3"]
        # 122 interactions, 22 of them in the table, 20 of those different
        left_out = 100 + 20 - shown["long"]
        assert f"(and {left_out} products before these) 1. " in asks["long"].request.messages[-1]["content"]
        assert "before these" not in asks["short"].request.messages[-1]["content"]

    def test_one_item_more_would_not_have_fitted(self):
        plan = Shop().plan(max_prompt_tokens=200)
        shop, n = Shop(), len(plan.histories["long"].shown)
        settings = Rationales(engine="dummy", prompt="products", condense=ON)
        template = PromptTemplate.of(settings)
        catalogue = template.catalogue(shop.items)
        found = histories_of_seeds(shop.tables, catalogue, n + 1, template.condensing)
        wider = found["long"]
        longer = template.render(wider.shown, 2, 3, wider.earlier)
        assert len(wider.shown) == n + 1
        assert sum(len(message["content"].split()) for message in longer) > 200

    def test_a_limit_below_the_prompt_itself_is_an_error_that_says_what_fits(self):
        with pytest.raises(ConfigError, match=r"(?s)condense.max_prompt_tokens.*at most 50 tokens.*--set"):
            Shop().plan(max_prompt_tokens=50)

    def test_without_a_limit_items_are_counted(self):
        plan = Shop().plan()
        assert len(plan.histories["long"].shown) == 20
        assert plan.histories["long"].earlier == 100

    def test_banned_titles_are_those_of_the_whole_history(self):
        plan = Shop().plan(max_prompt_tokens=200)
        assert len(plan.histories["long"].banned) == 20


@pytest.mark.parametrize("name", ["generic", "movies", "products"])
def test_is_off_by_default(name):
    template = PromptTemplate.of(Rationales(prompt=name))
    assert template.condensing is None
    assert template.step0.title("BUY THIS SOAP TODAY PLEASE 🔥") == "BUY THIS SOAP TODAY PLEASE 🔥"
    assert template == PromptTemplate.load(name)
