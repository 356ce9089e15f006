from __future__ import annotations

import numpy as np
import pytest

from reland_features.config import Review
from reland_features.errors import ConfigError
from reland_features.finished_pool import WrittenRationale
from reland_features.review import BUILT_IN, Finding, ReviewedPool, ranked, rules_of
from reland_features.review.content import is_card, is_phone
from reland_features.review.duplicates import leaders
from reland_features.review.language import language_of, script_of

RULES = {rule.name: rule for rule in BUILT_IN}


def rationale(seed: str = "1", summary: str = "You like the films of the past.", **changes) -> WrittenRationale:
    parts = {"categories": ("Drama",), "items": ("Heat",), "text": "", "grounded": ("Heat",), "repeated": ()}
    parts |= {"ungrounded": (), "touched": frozenset({"Drama"})}
    return WrittenRationale(seed, summary, **{**parts, **changes})


def found(rule: str, *rationales: WrittenRationale, embeddings=None, titles=("The Life of the Party",), **settings):
    rows = np.eye(len(rationales), dtype=np.float32) if embeddings is None else np.array(embeddings, np.float32)
    return list(RULES[rule].find(ReviewedPool(rationales, rows, titles, Review(**settings))))


@pytest.mark.parametrize("rule", [name for name in RULES if not name.startswith("same")])
def test_an_ordinary_rationale_is_not_suspicious(rule):
    assert found(rule, rationale()) == []


@pytest.mark.parametrize(
    ("rule", "changes", "severity", "evidence"),
    [
        ("ungrounded", {"ungrounded": ("Heatt",)}, 0.4, "Heatt: not in the catalogue"),
        ("in-history", {"repeated": ("Jaws",)}, 0.25, "Jaws: in the user's history already"),
        ("untouched-category", {"categories": ("Drama", "War")}, 0.2, "War: never touched by the user"),
        ("refusal", {"text": "As an AI model I cannot say. Step 1: You like it."}, 0.9, "As an AI"),
        ("refusal", {"summary": "I'm sorry, but no."}, 0.9, "I'm sorry"),
        ("words", {"summary": "You like the SHITTY films."}, 1.0, "shitty"),
        ("language", {"summary": "Du magst die Filme und das ist nicht alles."}, 0.8, "de, not en"),
        ("language", {"summary": "Вы любите старые фильмы."}, 0.8, "cyrillic, not latin"),
        ("personal", {"summary": "Write to jane.doe@example.com now."}, 1.0, "e-mail address ja"),
        ("personal", {"summary": "Call +44 20 7946 0958 now."}, 1.0, "telephone number +4"),
        ("personal", {"summary": "Pay with 4111 1111 1111 1111."}, 1.0, "card number 41"),
    ],
)
def test_each_rule_finds_what_it_is_for(rule, changes, severity, evidence):
    (finding,) = found(rule, rationale("7", **changes))
    assert (finding.rule, finding.seeds) == (rule, ("7",))
    assert finding.severity == pytest.approx(severity)
    assert evidence in finding.evidence


def test_personal_data_is_masked_in_the_evidence():
    (finding,) = found("personal", rationale(summary="Write to jane.doe@example.com now."))
    assert "doe" not in finding.evidence


@pytest.mark.parametrize(
    "text", ["Films of 1999 and 2001", "0.67 Oz, 16 Fluid Ounce, SPF 15", "8 g/0.28 Oz", "2000-2010"]
)
def test_years_and_sizes_are_not_personal(text):
    assert found("personal", rationale(summary=text)) == []


def test_cards_pass_the_luhn_check_and_phones_have_nine_digits():
    assert is_card("4111111111111111")
    assert not is_card("4111111111111112")
    assert not is_card("0000000000000000")
    assert is_phone("020 7946 0958")
    assert not is_phone("1999 2001")


def test_titles_of_the_catalogue_are_not_the_llms_words():
    assert found("words", rationale(items=("Bastard",), grounded=("Bastard",))) == []
    assert found("words", rationale(ungrounded=("Bastard",)))[0].evidence == "bastard"


def test_a_file_of_words_replaces_the_list(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# ours\nold rope  # a phrase\n\n")
    rows = rationale("1", "Old  Rope!"), rationale("2", "You like shitty films.")
    assert [finding.seeds for finding in found("words", *rows, words=str(path))] == [("1",)]
    with pytest.raises(ConfigError, match="list of words"):
        found("words", *rows, words=str(tmp_path / "no"))


def test_the_configured_language_goes_before_that_of_the_titles():
    german = rationale(summary="Du magst die Filme und das ist nicht alles.")
    assert found("language", german, language="de") == []
    assert found("language", german, titles=("Der Untergang und das Boot", "Die Ehe der Maria Braun ist nicht")) == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("You prefer the films of that time and this is why.", "en"),
        ("Vous aimez les films et vous préférez une comédie dans ce genre.", "fr"),
        ("Te gustan los dramas y las comedias con un poco de acción.", "es"),
        ("Heat", ""),
        ("", ""),
    ],
)
def test_languages_by_stop_words(text, language):
    assert language_of(text) == language


def test_scripts():
    assert [script_of(t) for t in ("abc", "фильм", "電影", "映画が好き", "12 !", "영화")] == [
        "LATIN", "CYRILLIC", "CJK", "KANA", "", "HANGUL",
    ]  # fmt: skip


def test_the_same_words_are_one_cluster_and_not_all_pairs():
    rows = [rationale(str(n), "You prefer a movie to a movie.") for n in range(5)] + [rationale("9", "Westerns only.")]
    (finding,) = found("same-text", *rows)
    assert finding.seeds == ("0", "1", "2", "3", "4")
    assert finding.evidence == "5 rationales (83%) share Step 1 of 0: “You prefer a movie to a movie.”"


def test_near_embeddings_are_one_cluster():
    near = [[1, 0, 0], [0.999, 0.01, 0], [0, 1, 0], [0.9, 0.4, 0]]
    (finding,) = found("same-embedding", *(rationale(str(n)) for n in range(4)), embeddings=near)
    assert finding.seeds == ("0", "1")
    assert found("same-embedding", *(rationale(str(n)) for n in range(4)), embeddings=near, near_duplicate=1.0) == []


def test_a_member_is_near_to_its_leader_not_only_to_another_member(monkeypatch):
    angles = np.deg2rad([0, 10, 20, 90])
    units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    expected = [0, 0, 2, 3]  # 20° is 10° from the second, but 20° from the leader
    for block in (512, 1, 3):
        monkeypatch.setattr("reland_features.review.duplicates._BLOCK", block)
        assert leaders(units, np.cos(np.deg2rad(15))).tolist() == expected


def test_the_most_suspicious_rationale_comes_first_with_all_that_was_found_of_it():
    a, b = Finding("x", ("1",), 0.5, ""), Finding("y", ("2",), 0.4, "")
    c, cluster = Finding("z", ("2",), 0.3, ""), Finding("same", ("1", "2"), 0.6, "")
    assert ranked([a, cluster, c, b]) == (b, c, cluster, a)


def test_a_rule_of_your_own_is_loaded_by_name(tmp_path, monkeypatch):
    (tmp_path / "house_rules.py").write_text(
        "from reland_features.review import Finding\n"
        "class Rival:\n"
        "    name = 'rival'\n"
        "    def find(self, pool):\n"
        "        named = [r for r in pool.rationales if 'Acme' in r.summary]\n"
        "        return [Finding('rival', (r.seed_user_id,), 1.0, 'Acme') for r in named]\n"
        "class NoRule: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (rule,) = rules_of(Review(rules=("house_rules:Rival",)), ["rival"])
    rows = rationale("1", "Acme is fine."), rationale("2")
    assert [f.seeds for f in rule.find(ReviewedPool(rows, np.eye(2, dtype=np.float32)))] == [("1",)]
    for wrong, what in (
        ("house_rules:Gone", "cannot be made"),
        ("nowhere:X", "cannot be made"),
        ("house_rules:NoRule", "no rule"),
    ):
        with pytest.raises(ConfigError, match=what):
            rules_of(Review(rules=(wrong,)))
    with pytest.raises(ConfigError, match="no such rule"):
        rules_of(Review(), ["refusals"])
