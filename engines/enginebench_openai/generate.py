"""The half that both generating routes share: check what is left to check, then answer.

A route reads its own body and makes token ids of it (`Asked`); from here on a completion and a chat
differ only in the shape of their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.access import client_of
from enginebench_openai.answer import EventStream, whole_answer
from enginebench_openai.bodies import GenerationBody
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation
from enginebench_openai.params import (
    check_prompt,
    output_budget,
    priority,
    sampling_params,
    stop_strings,
    stream_options,
)
from enginebench_openai.protocol import GenerationRequest
from enginebench_openai.served import Served, served
from enginebench_openai.sse import AnswerShape, EventWriter

__all__ = ["Asked", "generate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a route made of its body. The fields' names are for errors.

    `default_max_tokens` None: what the context leaves. `arrived_at` is on time.perf_counter.
    """

    shape: AnswerShape
    prompts: Sequence[Sequence[int]]
    prompt_field: str
    max_tokens: int | None
    max_tokens_field: str
    default_max_tokens: int | None
    arrived_at: float


async def generate(request: Request, body: GenerationBody, asked: Asked) -> ASGIApp:
    """Continue every prompt; the answer, or a stream of it."""
    on = served(request)
    options = stream_options(body)
    flight = Flight(
        _generations(on, body, asked),
        streaming=bool(body.stream),
        arrived_at=asked.arrived_at,
        client=client_of(request.scope),
        priority=priority(body),
    )
    if body.stream:
        return EventStream(on.front, flight, EventWriter(asked.shape, on.name, options))
    return await whole_answer(request, on.front, flight, asked.shape, on.name)


def _generations(on: Served, body: GenerationBody, asked: Asked) -> Sequence[Generation]:
    stops, sampling = stop_strings(body), sampling_params(body)
    stop_ids = frozenset() if body.ignore_eos else on.tokenizer.eos_ids
    generations = []
    for index, prompt in enumerate(asked.prompts):
        work = GenerationRequest(
            request_id=uuid4().hex,
            prompt=tuple(prompt),
            max_tokens=_budget(on, asked, index),
            sampling=sampling,
            stop_token_ids=stop_ids,
        )
        generations.append(Generation(work, on.tokenizer, index=index, stops=stops))
    return generations


def _budget(on: Served, asked: Asked, index: int) -> int:
    """The output limit of one prompt, which is checked on the way."""
    prompt, field = asked.prompts[index], asked.prompt_field
    check_prompt(
        prompt,
        vocab_size=on.vocab_size,
        context_length=on.front.context_length,
        param=f"{field}[{index}]" if len(asked.prompts) > 1 else field,
    )
    return output_budget(
        asked.max_tokens,
        default=asked.default_max_tokens,
        prompt_tokens=len(prompt),
        context_length=on.front.context_length,
        param=asked.max_tokens_field,
    )
