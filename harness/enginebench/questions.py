"""The fixed questions that show whether an engine computes its model: the same in every Run.

Texts whose continuation a working model is sure of, and token ids in a pattern that repeats (a
model goes on with it, whatever the ids mean). Few tokens are asked of each, since two engines
share a context only until their answers differ. Nothing here asks anybody.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from enginebench.types import ModelInfo

__all__ = ["ANSWER_TOKENS", "Question", "questions"]

ANSWER_TOKENS = 4
"""One comes from the prompt as a whole, the others from decoding one by one."""

_SEED = 20_26
_PATTERNS = ((5, 4), (7, 5), (11, 4), (16, 4), (24, 4), (32, 5), (40, 5), (56, 5))
"""(different ids, how often they come): prompts of 20 to 280 tokens."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for /v1/completions, text or token ids, to be continued greedily."""

    prompt: str | tuple[int, ...]
    max_tokens: int = ANSWER_TOKENS


def questions(model: ModelInfo) -> Sequence[Question]:
    """All of them; token ids only where the vocabulary is known."""
    return [*map(Question, _TEXTS), *map(Question, _patterns(model))]


def _patterns(model: ModelInfo) -> Iterator[tuple[int, ...]]:
    if model.vocab_size is None:
        return
    ids = range(model.first_ordinary_token, model.ordinary_token_end or model.vocab_size)
    draw = random.Random(_SEED)
    for different, times in _PATTERNS:
        pattern = [draw.choice(ids) for _ in range(different)]
        repeated = pattern * times
        yield tuple(repeated[: -different // 2])  # it breaks off in the middle


_TEXTS = (
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is",
    "Monday, Tuesday, Wednesday, Thursday, Friday,",
    "one, two, three, four, five, six, seven,",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,",
    "2, 4, 6, 8, 10, 12, 14, 16,",
    "January, February, March, April, May, June, July,",
    "a b c d e f g h i j k l m n o p",
    "The opposite of hot is cold. The opposite of up is down. The opposite of left is",
    "def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return a",
    "<html>\n<head>\n<title>Home</title>\n</head>\n<body>\n<p>Hello</p>\n</body>\n",
    "Water freezes at zero degrees Celsius and boils at one hundred degrees",
    "Question: What do bees make?\nAnswer: Bees make honey.\n\n"
    "Question: What do cows give?\nAnswer: Cows give",
    "for i in range(10):\n    print(i)\n\nfor j in range(10):\n    print(",
    'The names are listed again: {"first": "Ada", "last": "Lovelace"}, '
    '{"first": "Alan", "last": "Turing"}, {"first": "Grace", "last":',
    "To be, or not to be, that is the",
    "The quick brown fox jumps over the lazy dog. " * 8 + "The quick brown fox jumps over",
)
