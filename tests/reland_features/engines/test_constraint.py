"""Skeleton decoding on a tokenizer of a few characters, against any model (hypothesis chooses)."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reland_features.engines.constraint import Answer
from reland_features.engines.vocabulary import OptionTrie, Vocabulary
from reland_features.errors import EngineError
from reland_features.skeleton import Choice, Fixed, Free

# Longest match first, as merges would: " a" and "ab" make tokenization cross letters, "b\n" crosses a line end.
TOKENS = [
    "<end>", "\n", " ", "a", "b", "c", " a", "ab", "abc", "b\n", ".", "Step:", "1", "\r", "\u2028", "<s>", "é",
    "\ufffd",
]  # fmt: skip
NEWLINE, END = 1, 0


class ToyTokenizer:
    """A greedy longest-match tokenizer with two special tokens."""

    eos_token_id = END
    all_special_ids = (0, 15)

    def __len__(self) -> int:
        return len(TOKENS)

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        ids, by_length = [], sorted(range(len(TOKENS)), key=lambda n: -len(TOKENS[n]))
        while text:
            ids.append(next(n for n in by_length if text.startswith(TOKENS[n])))
            text = text[len(TOKENS[ids[-1]]) :]
        return {"input_ids": ids}

    def decode(self, tokens, skip_special_tokens=False, **_: object) -> str:
        return "".join(TOKENS[n] for n in tokens if not (skip_special_tokens and n in self.all_special_ids))

    def batch_decode(self, rows) -> list[str]:
        return [self.decode(row) for row in rows]

    def get_added_vocab(self) -> dict[str, int]:
        return {"<s>": 15}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(ToyTokenizer())


def run(answer: Answer, vocabulary: Vocabulary, pick) -> list[list[int]]:
    """Drive an answer with `pick(candidates)`; return the chunks the model would have read."""
    chunks = [answer.take()]
    while not answer.done:
        candidates = answer.candidates
        answer.accept(pick(sorted(vocabulary.sets[candidates]) if isinstance(candidates, str) else candidates))
        chunks.append(answer.take())
    return chunks


words = st.text("abc.é ", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), options=st.lists(words, min_size=4, max_size=12, unique=True))
def test_whatever_the_model_prefers_the_answer_has_the_shape_of_the_skeleton(data, options):
    vocabulary = Vocabulary(ToyTokenizer())
    banned = frozenset(data.draw(st.lists(st.sampled_from(options), max_size=len(options) - 3), label="banned"))
    longest = data.draw(st.integers(1, 5), label="max_tokens")
    skeleton = (
        Fixed("Step:"), Free(longest), Fixed("1. "), Choice("x", banned), Fixed("1."), Choice("x", banned),
        Choice("x", banned),
    )  # fmt: skip
    answer = Answer(skeleton, {"x": tuple(options)}, vocabulary, 1000)
    chunks = run(answer, vocabulary, lambda candidates: data.draw(st.sampled_from(candidates)))

    match = re.fullmatch(r"Step: (.+)\n1\. (.+)\n1\. (.+)\n(.+)\n", answer.text)
    assert match is not None
    free, *chosen = match.groups()
    assert free == free.strip()
    assert 0 < len(free) <= longest * len("Step:")
    assert set(chosen) <= set(options) - banned
    assert len(set(chosen)) == 3
    assert answer.finish_reason == "stop"
    assert [token for chunk in chunks for token in chunk] == answer.tokens
    # What the model has read says the same as the text, but for spaces at the edges of the free slot.
    read = ToyTokenizer().decode(answer.tokens)
    assert re.sub(r"[ \ufffd]", "", read) == re.sub(" ", "", answer.text)
    assert not set(answer.tokens) & {END, 15, 13, 14}


@settings(max_examples=100, deadline=None)
@given(options=st.lists(words, min_size=1, max_size=30, unique=True), lead=st.sampled_from(["", " "]))
def test_a_trie_holds_exactly_its_options(options, lead):
    trie = OptionTrie("x", options, lambda text: ToyTokenizer()(text)["input_ids"], lead)

    def leaves(node):
        if node[2] == len(trie.sequences[node[0]]):
            return [trie.names[node[0]]]
        children = trie.children(node)
        assert list(children) == sorted(children)
        return [name for child in children.values() for name in leaves(child)]

    assert sorted(leaves(trie.root)) == sorted(options)


def test_only_real_decisions_are_asked_for(vocabulary):
    skeleton = (Fixed("Step:"), Choice("x"), Fixed("1."), Choice("x"))
    answer = Answer(skeleton, {"x": ("abcabc", "abcc")}, vocabulary, 100)
    asked = 0
    while not answer.done:
        asked += 1
        answer.accept(answer.candidates[0])
    assert asked == 1  # the second option follows from the first
    assert sorted(answer.text.split("\n")[:2]) == ["1. abcabc", "Step: abcc"]


def test_a_choice_at_the_start_of_a_line_has_no_leading_space(vocabulary):
    answer = Answer((Fixed("1\n"), Choice("x"), Choice("x")), {"x": ("a", "b")}, vocabulary, 100)
    answer.accept(max(answer.candidates))
    assert answer.text == "1\nb\na\n"


def test_free_text_opens_visibly_and_ends_at_the_newline_or_at_its_limit(vocabulary):
    answer = Answer((Fixed("1"), Free(3, min_tokens=2), Fixed("Step:")), {}, vocabulary, 100)
    seen = []
    for token in ("a", " ", "é"):
        seen.append({TOKENS[n] for n in vocabulary.sets[answer.candidates]})
        answer.accept(TOKENS.index(token))
    assert answer.done
    assert answer.text == "1 a é\nStep:"
    assert [" " in s for s in seen] == [False, True, True]
    assert ["\ufffd" in s for s in seen] == [False, True, True]
    assert ["\n" in s for s in seen] == [False, False, True]
    assert not any(s & {"b\n", "\r", "\u2028", "<end>", "<s>"} for s in seen)


def test_an_answer_at_its_limit_is_cut_and_says_so(vocabulary):
    answer = Answer((Fixed("1"), Choice("x")), {"x": ("abcabc", "abcc")}, vocabulary, 4)
    answer.accept(answer.candidates[0])
    assert answer.done
    assert answer.finish_reason == "length"
    assert len(answer.tokens) == 4
    assert "1 abcabc".startswith(answer.text)


def test_an_empty_skeleton_ends_where_the_model_ends(vocabulary):
    answer = Answer((), {}, vocabulary, 10)
    for token in (TOKENS.index("a"), NEWLINE, TOKENS.index("b"), END):
        assert token in vocabulary.sets[answer.candidates]
        answer.accept(token)
    assert answer.done
    assert (answer.text, answer.finish_reason) == ("a\nb", "stop")


def test_a_choice_without_a_free_option_is_an_error(vocabulary):
    with pytest.raises(EngineError, match="banned or taken"):
        Answer((Choice("x", frozenset({"a", "b"})),), {"x": ("a", "b")}, vocabulary, 10)
    with pytest.raises(EngineError, match="banned or taken"):
        Answer((Choice("x"), Choice("x")), {"x": ("a",)}, vocabulary, 10)
    with pytest.raises(EngineError, match="unknown option set"):
        Answer((Choice("y"),), {"x": ("a",)}, vocabulary, 10)


@pytest.mark.parametrize("option", ["", " a", "a ", "a\nb", "a\u2028b"])
def test_an_option_that_is_no_line_is_an_error(vocabulary, option):
    with pytest.raises(EngineError, match="one line"):
        vocabulary.trie("x", {"x": ("b", option)}, " ")


def test_a_trie_is_built_once_and_again_for_other_options(vocabulary):
    first = vocabulary.trie("x", {"x": ("a", "b")}, "")
    assert vocabulary.trie("x", {"x": ("a", "b")}, "") is first
    assert vocabulary.trie("x", {"x": ("a", "c")}, "").names == ["a", "c"]


def test_options_that_the_tokenizer_cannot_tell_apart_are_one(vocabulary):
    trie = OptionTrie("x", ["a", "é"], lambda text: ToyTokenizer()(text.replace("é", "a"))["input_ids"], "")
    assert trie.names == ["a"]
    assert trie.positions == {"a": 0, "é": 0}


def test_a_tokenizer_without_a_newline_is_an_error():
    class Blind(ToyTokenizer):
        def __call__(self, text, **_):
            return {"input_ids": [3, 4]} if text == "\n" else super().__call__(text)

    with pytest.raises(EngineError, match="newline"):
        Vocabulary(Blind())


def test_a_special_token_in_an_option_is_plain_text():
    seen = []

    class Recording(ToyTokenizer):
        def __call__(self, text, **options):
            seen.append(SimpleNamespace(text=text, **options))
            return super().__call__(text)

    Vocabulary(Recording()).encode("a")
    assert all(call.split_special_tokens and not call.add_special_tokens for call in seen)
