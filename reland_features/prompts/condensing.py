"""Step 0 for noisy histories: repeated items, promotional text and length (section 3.1.2). Off unless configured."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from reland_features.prompts.text import HistoryItem, Step0, clean, without

LEFT_OUT = "({n_left_out} earlier ones are not shown) "
_URL = re.compile(r"(?i)\b(?:https?://|www\.)\S+")
# Pictures, arrows, dingbats, flags, and what joins or colours them; trade marks are as empty of taste as they are.
_PICTURES = re.compile(r"[\U0001f000-\U0001faff\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\ufe0f\u200d©®™]")
_REPEATED = re.compile(r"([!?~*=_|;,-])\1+|[!?]{2,}")
_LOOSE = re.compile(r"\s+([,:;.!?](?:\s|$))")  # what stood behind a picture
_LONG = 5  # letters; shorter words in capitals are mostly abbreviations


@dataclass(frozen=True)
class Condensing(Step0):
    """Take out of a history what a shop has put into it and no preference can be read from.

    Parameters
    ----------
    max_title_chars, max_categories, drop_patterns
        See `Step0`.
    patterns : tuple of str
        Regular expressions of promotional text, the template's and your own; matches are removed from titles.
    dedupe : bool
        Show an item that was interacted with again only where it stands last.
    max_prompt_tokens : int, optional
        Most tokens of a whole prompt, examples included; the newest items that fit are shown.
    left_out : str
        What the prompt says of the items that are not shown, with ``{n_left_out}``.
    """

    patterns: tuple[str, ...] = ()
    dedupe: bool = True
    max_prompt_tokens: int | None = None
    left_out: str = LEFT_OUT

    def title(self, title: str) -> str:
        """Return the shown form of a title: as `Step0`, and without what promotes or shouts.

        Addresses, pictures, promotional text and repeated punctuation go. Three words in capitals in a row, two of
        them long, are shouting and get one capital each; fewer may be a name. What would leave nothing is not done.
        """
        text = without(self.drop_patterns, clean(html.unescape(title)))
        text = clean(_PICTURES.sub(" ", _URL.sub(" ", text))) or text
        text = without(self.patterns, _LOOSE.sub(r"\1", text))
        text = _calm(_REPEATED.sub(lambda found: found[0][0], text))
        return super().title(text.strip(" -–—,;|*=~_") or text)

    def items(self, history: Sequence[HistoryItem]) -> tuple[HistoryItem, ...]:
        """Return a history, oldest first, with every title once, at its last place."""
        if not self.dedupe:
            return tuple(history)
        return tuple({item.title: item for item in reversed(history)}.values())[::-1]

    def note(self, n_left_out: int) -> str:
        """Return what the prompt says of items that it does not show; nothing where it shows all."""
        return self.left_out.format(n_left_out=n_left_out) if n_left_out else ""


def _calm(text: str) -> str:
    """Write runs of words in capitals with one capital each."""
    words: list[str] = []
    for loud, run in groupby(text.split(), lambda word: word == word.upper()):
        some = list(run)
        names = [word for word in some if word.isupper()]
        is_shouting = loud and len(names) > 2 and sum(len(name) >= _LONG for name in names) > 1
        words += [word if re.search(r"\d", word) else word.capitalize() for word in some] if is_shouting else some
    return " ".join(words)
