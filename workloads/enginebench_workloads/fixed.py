"""The `fixed` workload: every prompt and every answer has the same length.

Lengths are exact (token-id prompts, `ignore_eos`) and decoding is greedy, so that two engines do
the same work, and a cell whose lengths come out otherwise is known to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, cast

from enginebench.errors import UsageError
from enginebench.types import Cell, Message, ModelInfo, Option, OptionValue, Request
from enginebench_workloads.arrivals import ARRIVALS, Arrival, arrival_times
from enginebench_workloads.prompts import text_prompt, token_prompts

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FixedWorkload"]

FASTEST_TOKEN_S = 0.001
"""No engine is expected to be faster: bounds how many requests a timed closed loop can need."""
MOST_REQUESTS = 8192
DEFAULT_DURATION_S = 60.0
Prompt = str | tuple[int | Message, ...]


class FixedWorkload:
    """Prompts of `input_tokens`, answers of exactly `output_tokens`."""

    name = "fixed"
    summary = "Every prompt and every answer of the same length, greedy, nothing shared"
    options: Sequence[Option] = (
        Option("input_tokens", int, 128, "length of every prompt in tokens"),
        Option("output_tokens", int, 64, "length of every answer in tokens"),
        Option(
            "prompt",
            str,
            "tokens",
            "token ids of exact length, or English words of about that many tokens",
            choices=("tokens", "text"),
        ),
        Option("route", str, "completions", "which API is used", choices=("completions", "chat")),
        Option("arrival", str, "poisson", "open loop: how requests arrive", choices=ARRIVALS),
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`.

        Raises UsageError for lengths below 1 or beyond the model's context.
        """
        import numpy as np

        options = {option.name: option.default for option in self.options} | dict(
            cell.workload.options
        )
        length, answer = cast(int, options["input_tokens"]), cast(int, options["output_tokens"])
        _check_lengths(length, answer, model)
        rng = np.random.default_rng(cell.seed)
        count = _request_count(cell, answer)
        body: dict[str, OptionValue] = {"temperature": 0.0, "ignore_eos": True}
        prompts = _prompts(rng, count, length, options, model)
        due = _due_times(rng, cell, cast(Arrival, options["arrival"]))
        return [
            Request(index, prompt, answer, scheduled_s, body)
            for index, (prompt, scheduled_s) in enumerate(zip(prompts, due, strict=False))
        ]


def _check_lengths(length: int, answer: int, model: ModelInfo) -> None:
    for name, value in (("input_tokens", length), ("output_tokens", answer)):
        if value < 1:
            raise UsageError(f"workload option {name}={value}: must be at least 1")
    context = model.context_length
    if context is not None and length + answer > context:
        raise UsageError(
            f"input_tokens={length} and output_tokens={answer} need a context of {length + answer}"
            f" tokens, but {model.name} has {context}: lower one of them"
        )


def _request_count(cell: Cell, answer: int) -> int:
    """How many requests to write: exact where the budget says, else an upper bound."""
    warmup, users = cell.budget.warmup_requests, cell.load.users
    if cell.budget.requests is not None:
        return warmup + max(cell.budget.requests, users or 1)
    duration_s = cell.budget.duration_s or DEFAULT_DURATION_S
    if users is None:
        assert cell.load.rate_rps is not None
        return warmup + math.ceil(cell.load.rate_rps * duration_s * 1.5) + 16
    per_user = math.ceil(duration_s / (FASTEST_TOKEN_S * (answer + 5)))
    return warmup + min(users * max(per_user, 2), max(MOST_REQUESTS, 16 * users))


def _prompts(
    rng: np.random.Generator,
    count: int,
    length: int,
    options: dict[str, OptionValue | None],
    model: ModelInfo,
) -> Iterable[Prompt]:
    if options["route"] == "chat":
        return (_chat(text_prompt(rng, length)) for _ in range(count))
    if options["prompt"] == "text" or model.vocab_size is None:
        return (text_prompt(rng, length) for _ in range(count))
    high = model.ordinary_token_end or model.vocab_size
    return token_prompts(rng, count, length, model.first_ordinary_token, high)


def _chat(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def _due_times(rng: np.random.Generator, cell: Cell, arrival: Arrival) -> Iterator[float | None]:
    """Warm-up requests are due at once; those of an open loop by the schedule."""
    if cell.load.rate_rps is None:
        return repeat(None)
    warmup = cell.budget.warmup_requests
    times = arrival_times(rng, cell.load.rate_rps, arrival)
    return iter([*islice(repeat(None), warmup), *islice(times, _request_count(cell, 1))])
