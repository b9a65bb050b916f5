"""How many answers a prompt gets, how they differ, and which of them are shown.

`n` answers are `n` requests to the engine, which finds their prompt in its prefix cache. With a
seed, choice k draws with seed + k. `best_of` asks for more than are shown: those of the highest
mean logprob per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from enginebench_openai.bodies import CompletionBody, GenerationBody
from enginebench_openai.errors import ApiError
from enginebench_openai.generation import Generation
from enginebench_openai.params import MAX_CHOICES
from enginebench_openai.protocol import GenerationRequest
from enginebench_openai.ranges import out_of_range

__all__ = ["Choices", "choices", "kept", "of_choice"]

_I64 = 2**63


@dataclass(frozen=True, slots=True)
class Choices:
    """Answers to each prompt: how many are shown, and how many are made."""

    shown: int
    made: int


def choices(body: GenerationBody) -> Choices:
    """What the body asks for; its range of `n` is checked elsewhere."""
    shown = body.n or 1
    best_of = body.best_of if isinstance(body, CompletionBody) else None
    if best_of is None:
        return Choices(shown, shown)
    if not shown <= best_of <= MAX_CHOICES:
        raise out_of_range("best_of", best_of, f"at least n ({shown}) and at most {MAX_CHOICES}")
    if body.stream and best_of > shown:
        raise ApiError(
            400,
            "best_of above n cannot be streamed: which answers are shown is known only at the end",
            param="best_of",
            code="invalid_value",
        )
    return Choices(shown, best_of)


def of_choice(request: GenerationRequest, name: str, number: int) -> GenerationRequest:
    """The request of the prompt's choice `number`."""
    seed = request.sampling.seed
    if seed is None or number == 0:
        return replace(request, request_id=name)
    seed = (seed + number + _I64) % (2 * _I64) - _I64
    return replace(request, request_id=name, sampling=replace(request.sampling, seed=seed))


def kept(generations: Sequence[Generation], wanted: Choices) -> list[Generation]:
    """Those that are shown, numbered anew; `generations` of one prompt stand together."""
    best: list[Generation] = []
    for first in range(0, len(generations), wanted.made):
        group = sorted(generations[first : first + wanted.made], key=_mean_logprob, reverse=True)
        best += group[: wanted.shown]
    for index, generation in enumerate(best):
        generation.index = index
    return best


def _mean_logprob(generation: Generation) -> float:
    scores = generation.scores
    return sum(score.logprob for score in scores) / max(1, len(scores))
