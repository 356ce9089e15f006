"""A rule about the language of Step 1: its script, and for Latin letters the stop words of seven languages.

This is no language identification. It knows that a sentence is not in the expected script, and it tells English,
German, French, Spanish, Italian, Portuguese and Dutch apart where a sentence has at least two words that are common
in one of them and not in the others. Other languages in Latin letters are not told apart.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

from reland_features.prompts.text import fold
from reland_features.review.base import Finding, ReviewedPool

STOP_WORDS = {
    "en": "the you and of to your that is with for are have this they from which their as movie movies based",
    "de": "der die das und du sie ist nicht ein eine mit für auf dem den des ihre deine magst gerne auch von oder",
    "fr": "le les des et vous est une un dans pour que qui sur avec vos votre aimez du au aux ou ces leur plus",
    "es": "el los las y usted es una un por para que con su sus te gustan le prefiere más películas como en del",
    "it": "il gli e di che una un per con sono della delle tuo tuoi ti piacciono preferisci più film come nel lo",
    "pt": "o os as e você é uma um por para que com seu seus gosta prefere mais filmes como em do da dos das",
    "nl": "de het een en je jij u is niet met voor van op dat die zijn hebt houdt naar ook als of uw deze",
}
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL", "KANA", "CJK")
_JAPANESE = ("HIRAGANA", "KATAKANA")
_SURE = 2  # words more than any other language has


class LanguageMismatch:
    """Find rationales in another language than `review.language`, by default that of the catalogue's titles."""

    name = "language"

    def find(self, pool: ReviewedPool) -> Iterable[Finding]:
        """Return a finding for each rationale in another script or language."""
        titles = " ".join(pool.titles)
        wanted = pool.settings.language
        expected_script = "LATIN" if wanted in STOP_WORDS else script_of(titles)
        expected = wanted or language_of(titles)
        for rationale in pool.rationales:
            script, language = script_of(rationale.summary), language_of(rationale.summary)
            if script and expected_script and script != expected_script:
                got, wants = script.lower(), expected_script.lower()
            elif language and expected and language != expected:
                got, wants = language, expected
            else:
                continue
            yield Finding(self.name, (rationale.seed_user_id,), 0.8, f"{got}, not {wants}: “{rationale.summary[:60]}”")


def script_of(text: str) -> str:
    """Return the script that most letters of a text have, or nothing where it has no letters of a known one."""
    counts: Counter[str] = Counter()
    for character, count in Counter(filter(str.isalpha, text)).items():
        first = unicodedata.name(character, "").split(" ")[0].split("-")[0]
        counts["KANA" if first in _JAPANESE else first] += count
    # Japanese mixes its own letters with Chinese ones.
    if counts["KANA"] and counts["KANA"] + counts["CJK"] > sum(counts.values()) / 2:
        return "KANA"
    best, count = counts.most_common(1)[0] if counts else ("", 0)
    return best if best in SCRIPTS and count else ""


def language_of(text: str) -> str:
    """Return the language whose stop words a text has `_SURE` more of than any other's, or nothing."""
    words = Counter(fold(text).split())
    votes = sorted(((sum(words[w] for w in known), name) for name, known in _OWN_WORDS.items()), reverse=True)
    return votes[0][1] if votes[0][0] - votes[1][0] >= _SURE else ""


def _own_words() -> dict[str, frozenset[str]]:
    """Leave out words that two of the languages share."""
    folded = {name: {fold(word) for word in words.split()} for name, words in STOP_WORDS.items()}
    shared = Counter(word for words in folded.values() for word in words)
    return {name: frozenset(word for word in words if shared[word] == 1) for name, words in folded.items()}


_OWN_WORDS = _own_words()
