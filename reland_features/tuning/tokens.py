"""Examples as tokens, and which of their tokens the model has to decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reland_features.engines.constraint import Answer, Candidates
from reland_features.engines.vocabulary import Vocabulary
from reland_features.skeleton import Fixed, Free, Options, Skeleton
from reland_features.tuning.examples import Example


@dataclass(frozen=True)
class Decision:
    """A token of the answer that the engine would ask the model for.

    Parameters
    ----------
    position : int
        Index of the token in its sequence; the model decides it from the state one before.
    candidates : Candidates
        What it chooses among, see `engines.constraint`.
    """

    position: int
    candidates: Candidates


@dataclass(frozen=True)
class Lesson:
    """Prompt and answer as one sequence of tokens, and its decisions in order."""

    tokens: tuple[int, ...]
    decisions: tuple[Decision, ...]


def make_lessons(
    examples: Sequence[Example],
    prompts: Iterable[Sequence[int]],
    options: Options,
    vocabulary: Vocabulary,
    max_tokens: int,
) -> list[Lesson]:
    """Lay the prompt tokens and the real answer of every example end to end.

    Only decisions are learned. The engine writes forced text (labels, numbers, the only branch of a trie) without
    asking the model, so a loss on it would teach what is never used; and a choice is learned among the options that
    are on offer, which is how the engine makes it.

    An example is left out if it is longer than `max_tokens`, or if the engine could not write its answer (two
    names that the tokenizer cannot tell apart).
    """
    lessons = []
    for example, prompt in zip(examples, prompts, strict=True):
        target = answer_tokens(example.request.skeleton, example.answer, options, vocabulary)
        decisions = _decisions(example.request.skeleton, target, options, vocabulary)
        if decisions is not None and len(prompt) + len(target) <= max_tokens:
            shifted = tuple(Decision(len(prompt) + one.position, one.candidates) for one in decisions)
            lessons.append(Lesson((*prompt, *target), shifted))
    return lessons


def _decisions(
    skeleton: Skeleton, target: Sequence[int], options: Options, vocabulary: Vocabulary
) -> list[Decision] | None:
    """Return where the engine would ask on its way to an answer; None if it cannot get there."""
    # The engine's own decoder says where it would ask, and for what; nothing of it is repeated here.
    answer = Answer(skeleton, options, vocabulary, max_tokens=len(target))
    decisions = []
    while not answer.done:
        position, candidates = len(answer.tokens), answer.candidates
        allowed = vocabulary.sets[candidates] if isinstance(candidates, str) else candidates
        if target[position] not in allowed:
            return None
        decisions.append(Decision(position, candidates))
        answer.accept(target[position])
    return decisions if answer.tokens == list(target) else None


def answer_tokens(skeleton: Skeleton, texts: Sequence[str], options: Options, vocabulary: Vocabulary) -> list[int]:
    """Return the tokens with which the engine would write these texts into the slots of a skeleton."""
    tokens: list[int] = []
    slots = iter(texts)
    lead = ""
    for position, part in enumerate(skeleton):
        if isinstance(part, Fixed):
            followed = position + 1 < len(skeleton) and not isinstance(skeleton[position + 1], Fixed)
            text = part.text.removesuffix(" ") if followed else part.text
            tokens += vocabulary.encode_fixed(text)
            lead = "" if text.endswith("\n") else " "
        elif isinstance(part, Free):
            text_tokens = vocabulary.encode(f"{lead}{next(slots)}")
            # Where the space is a token of its own, the engine begins with the word and adds the space itself.
            first = next(n for n, token in enumerate(text_tokens) if token in vocabulary.sets["opener"])
            tokens += [*text_tokens[first : first + part.max_tokens], vocabulary.newline]
        else:
            trie = vocabulary.trie(part.options, options, lead)
            tokens += trie.sequences[trie.positions[next(slots)]]
        if not isinstance(part, Fixed):
            lead = ""
    return tokens
