"""Decode a skeleton token by token: what may come next in each answer, without any tensor.

Every slot ends its line: a `Free` slot writes its text and a newline, a `Choice` slot writes a leading space
(unless it starts the line), the option and a newline. One space before a choice in a `Fixed` belongs to the
option's first token.

The text of an answer is put together from the skeleton and the options taken, not from decoded tokens, so that
it is exact whatever the tokenizer normalises.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from typing import Literal

from reland_features.engines.vocabulary import Vocabulary
from reland_features.errors import EngineError
from reland_features.skeleton import Choice, Fixed, Free, Options, Skeleton

Candidates = Literal["opener", "text", "text or newline", "any"] | list[int]
"""What may come next: one of a `Vocabulary`'s named sets, or token ids in ascending order (two or more)."""


class _TokenLimitError(Exception):
    """The answer reached its limit of tokens."""


class Answer:
    """The state of one answer: how far it has come and what may come next.

    Until it is `done` the caller feeds `take()` to the model and passes its choice among `candidates` to
    `accept`. Tokens that leave no choice (fixed text, the only branch of a trie) are never asked for.

    Parameters
    ----------
    skeleton : Skeleton
        Shape of the answer; an empty one is any text until the model ends it.
    options : Options
        Option sets that its choices name.
    vocabulary : Vocabulary
        Shared by all answers of a model.
    max_tokens : int
        Where the answer is cut off; it is then unfinished.

    Raises
    ------
    EngineError
        An option set is unknown, or every option of a choice is banned or taken; also from `accept`.
    """

    def __init__(self, skeleton: Skeleton, options: Options, vocabulary: Vocabulary, max_tokens: int) -> None:
        self._vocabulary, self._options, self.limit = vocabulary, options, max_tokens
        self._text, self._slot = "", list[int]()
        self._taken: dict[str, set[str]] = {}
        self._read = 0
        self.tokens: list[int] = []
        self.done = False
        self.finish_reason: Literal["stop", "length"] = "stop"
        self.candidates: Candidates = "any"
        self._steps = self._follow(skeleton) if skeleton else self._open()
        self._resume(None)

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._text + self._vocabulary.decode(self._slot)

    def take(self) -> list[int]:
        """Return the tokens written since the last call, at least one after `accept`; the model has to read them."""
        start, self._read = self._read, len(self.tokens)
        return self.tokens[start:]

    def accept(self, token: int) -> None:
        """Go on with one of the candidates."""
        self._resume(token)

    def _resume(self, token: int | None) -> None:
        try:
            self.candidates = next(self._steps) if token is None else self._steps.send(token)
        except StopIteration:
            self.done = True
        except _TokenLimitError:
            self.done, self.finish_reason = True, "length"

    def _write(self, tokens: Sequence[int]) -> None:
        """Append tokens to the slot that is being filled."""
        fitting = tokens[: self.limit - len(self.tokens)]
        self.tokens.extend(fitting)
        self._slot.extend(fitting)
        if len(fitting) < len(tokens):
            raise _TokenLimitError

    def _close(self, text: str) -> None:
        """End the slot: its text is now known for sure."""
        self._text += text
        self._slot.clear()

    def _open(self) -> Generator[Candidates, int, None]:
        while (token := (yield "any")) != self._vocabulary.end:
            self._write([token])

    def _follow(self, skeleton: Skeleton) -> Generator[Candidates, int, None]:
        for position, instruction in enumerate(skeleton):
            if isinstance(instruction, Fixed):
                text = instruction.text
                if position + 1 < len(skeleton) and not isinstance(skeleton[position + 1], Fixed):
                    text = text.removesuffix(" ")  # tokenizers keep a space with the word after it
                self._write(self._vocabulary.encode_fixed(text))
                self._close(text)
            elif isinstance(instruction, Free):
                yield from self._free(instruction)
            else:
                yield from self._choice(instruction)

    def _free(self, slot: Free) -> Generator[Candidates, int, None]:
        for written in range(slot.max_tokens):
            token = yield "opener" if not written else "text" if written < slot.min_tokens else "text or newline"
            if token == self._vocabulary.newline:
                break
            self._write([token])
        text = self._vocabulary.decode(self._slot).strip()
        self._write([self._vocabulary.newline])
        self._close(f"{self._lead()}{text}\n")

    def _choice(self, slot: Choice) -> Generator[Candidates, int, None]:
        trie = self._vocabulary.trie(slot.options, self._options, self._lead())
        taken = self._taken.setdefault(slot.options, set())
        blocked = sorted({trie.positions[name] for name in slot.banned | taken if name in trie.positions})
        if len(blocked) == len(trie.sequences):
            raise EngineError(
                "every option of a choice is banned or taken",
                where=f"option set {slot.options!r}",
                got=f"{len(trie.sequences)} options",
                hint="ask for fewer of them, or give it more options",
            )
        node = trie.root
        while node[2] < len(trie.sequences[node[0]]):
            free = {
                token: child
                for token, child in trie.children(node).items()
                if child[1] - child[0] > bisect_left(blocked, child[1]) - bisect_left(blocked, child[0])
            }
            token = (yield list(free)) if len(free) > 1 else next(iter(free))
            node = free[token]
            self._write([token])
        taken.add(trie.names[node[0]])
        self._close(f"{self._lead()}{trie.names[node[0]]}\n")

    def _lead(self) -> str:
        """Return the space before a slot, or nothing where the slot starts its line."""
        return " " if self._text and not self._text.endswith("\n") else ""
