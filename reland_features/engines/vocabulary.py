"""A tokenizer as skeleton decoding sees it: what each token writes, and the tries of the option sets.

Options end with the newline's token, so no option is a prefix of another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from reland_features.errors import EngineError
from reland_features.skeleton import Options

Node = tuple[int, int, int]
"""A node of a trie: the options `low` to `high` (exclusive) share their first `depth` tokens."""


class OptionTrie:
    """A token trie over one option set, kept as a sorted array.

    Parameters
    ----------
    name : str
        Name of the option set, for messages.
    options : sequence of str
        Non-empty single lines without outer spaces.
    encode : callable
        Token ids of a text. Options that it cannot tell apart count as one: taking or banning either
        takes or bans both.

    Raises
    ------
    EngineError
        An option is empty, has outer spaces or a line break.
    """

    def __init__(self, name: str, options: Sequence[str], encode: Callable[[str], Sequence[int]], lead: str) -> None:
        for option in options:
            if not option or option != option.strip() or len(option.splitlines()) != 1:
                raise EngineError(
                    "an option cannot be written on one line",
                    where=f"option set {name!r}",
                    got=repr(option),
                    expected="text without line breaks and outer spaces",
                )
        encoded = {option: tuple(encode(f"{lead}{option}\n")) for option in options}
        self.sequences = sorted(set(encoded.values()))
        position = {sequence: n for n, sequence in enumerate(self.sequences)}
        self.positions = {option: position[sequence] for option, sequence in encoded.items()}
        self.names = [""] * len(self.sequences)
        for option in reversed(options):
            self.names[self.positions[option]] = option
        for shorter, longer in zip(self.sequences, self.sequences[1:], strict=False):
            if longer[: len(shorter)] == shorter:
                raise EngineError(
                    "the tokenizer does not separate an option from its line end",
                    where=f"option set {name!r}",
                    got=repr(self.names[position[shorter]]),
                    hint="use another model, or engine = 'openai' with a server",
                )
        self._children: dict[Node, dict[int, Node]] = {}

    @property
    def root(self) -> Node:
        """The node of all options."""
        return 0, len(self.sequences), 0

    def children(self, node: Node) -> dict[int, Node]:
        """Return the next node by token, tokens ascending; computed once per node."""
        if node not in self._children:
            low, high, depth = node
            found: dict[int, Node] = {}
            while low < high:
                prefix = self.sequences[low][: depth + 1]
                end = bisect_left(self.sequences, (*prefix[:-1], prefix[-1] + 1), low, high)
                found[prefix[-1]] = (low, end, depth + 1)
                low = end
            self._children[node] = found
        return self._children[node]


class Vocabulary:
    """A tokenizer as skeletons see it, and the tries of the option sets met so far.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Anything with `__call__`, `decode`, `get_added_vocab`, `all_special_ids` and `__len__`.

    Attributes
    ----------
    newline, end : int
        The token that is one line feed, and the one that ends an answer.
    sets : dict
        Token ids by name. ``text``: no special token and no line break of any kind inside; ``opener``: those
        of them that are visible and whole characters; ``text or newline``: with `newline`; ``any``: all but
        special tokens, with `end`.

    Raises
    ------
    EngineError
        The tokenizer has no single token for a newline.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        newline = self.encode("\n")
        if len(newline) != 1:
            raise EngineError(
                "the tokenizer has no token for a newline",
                got=newline,
                expected="one token",
                hint="use another model, or engine = 'openai' with a server",
            )
        self.newline = newline[0]
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        # The bar keeps splitlines from forgiving a break at the end of the token.
        plain = frozenset(token for token in range(len(texts)) if token not in special and texts[token])
        inline = frozenset(token for token in plain if len(f"{texts[token]}|".splitlines()) == 1)
        self.end = int(tokenizer.eos_token_id)
        self.sets: dict[str, frozenset[int]] = {
            "opener": frozenset(token for token in inline if texts[token].strip() and "\ufffd" not in texts[token]),
            "text": inline,
            "text or newline": inline | {self.newline},
            "any": plain | {self.end},
        }
        self._tries: dict[tuple[str, str], tuple[tuple[str, ...], OptionTrie]] = {}
        self._encoded: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; nothing in it is read as a special token."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def encode_fixed(self, text: str) -> list[int]:
        """Return `encode(text)`, remembered: every answer of a run has the same fixed texts."""
        if text not in self._encoded:
            self._encoded[text] = self.encode(text)
        return self._encoded[text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of free tokens, without halves of characters."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.replace("\ufffd", "")

    def trie(self, name: str, options: Options, lead: str) -> OptionTrie:
        """Return the trie of an option set, built once; with a lead of "" or " " before each option."""
        if name not in options:
            known = ", ".join(options) or "no option set"
            raise EngineError("the skeleton names an unknown option set", got=name, expected=known)
        built, trie = self._tries.get((name, lead), (None, None))
        if trie is None or (built is not options[name] and built != options[name]):
            trie = OptionTrie(name, options[name], self.encode, lead)
            self._tries[name, lead] = (options[name], trie)
        return trie
