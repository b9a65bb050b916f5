"""/v1/completions: text or token ids, one prompt or a list, streamed or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.answer import EventStream, whole_answer
from enginebench_openai.bodies import CompletionBody, GenerationBody, decode
from enginebench_openai.errors import ApiError
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation
from enginebench_openai.params import (
    check_prompt,
    output_budget,
    sampling_params,
    stop_strings,
    stream_options,
)
from enginebench_openai.protocol import GenerationRequest
from enginebench_openai.served import Served, read_body, served
from enginebench_openai.sse import TEXT, AnswerShape, EventWriter

__all__ = ["completions", "generate"]

DEFAULT_MAX_TOKENS: Final = 16  # OpenAI's
MAX_PROMPTS: Final = 1024
_decoder = msgspec.json.Decoder(CompletionBody)


async def completions(request: Request) -> ASGIApp:
    """POST /v1/completions."""
    on = served(request)
    body = decode(_decoder, await read_body(request))
    on.check_model(body.model)
    on.front.require_ready()
    prompts = await _token_ids(on, body.prompt)
    return await generate(
        request,
        body,
        TEXT,
        prompts,
        prompt_param="prompt",
        asked_tokens=body.max_tokens,
        default_tokens=DEFAULT_MAX_TOKENS,
    )


async def generate(
    request: Request,
    body: GenerationBody,
    shape: AnswerShape,
    prompts: Sequence[Sequence[int]],
    *,
    prompt_param: str,
    asked_tokens: int | None,
    default_tokens: int | None,
    tokens_param: str = "max_tokens",
) -> ASGIApp:
    """Check what remains to be checked, then continue every prompt: the rest of both routes."""
    on = served(request)
    options, stops = stream_options(body), stop_strings(body)
    sampling = sampling_params(body)
    stop_ids = frozenset() if body.ignore_eos else on.tokenizer.eos_ids
    generations = []
    for index, prompt in enumerate(prompts):
        param = f"{prompt_param}[{index}]" if len(prompts) > 1 else prompt_param
        context = on.front.context_length
        check_prompt(
            prompt, vocab_size=on.tokenizer.vocab_size, context_length=context, param=param
        )
        budget = output_budget(
            asked_tokens,
            default=default_tokens,
            prompt_tokens=len(prompt),
            context_length=context,
            param=tokens_param,
        )
        work = GenerationRequest(uuid4().hex, tuple(prompt), budget, sampling, stop_ids)
        generations.append(Generation(work, on.tokenizer, index=index, stops=stops))
    flight = Flight(generations, streaming=bool(body.stream))
    if body.stream:
        return EventStream(on.front, flight, EventWriter(shape, on.name, options))
    return await whole_answer(request, on.front, flight, shape, on.name)


async def _token_ids(
    on: Served, prompt: str | list[str | int | list[int]]
) -> Sequence[Sequence[int]]:
    """One list of token ids per prompt."""
    if isinstance(prompt, str):
        return [await _encode(on, prompt, "prompt")]
    if not prompt:
        raise ApiError(400, "prompt must not be empty", param="prompt", code="invalid_value")
    kinds = set(map(type, prompt))
    if len(kinds) > 1:
        raise ApiError(
            400,
            "prompt must be all strings, all token ids, or all lists of token ids, not a mixture",
            param="prompt",
            code="invalid_type",
        )
    if kinds == {int}:
        return [prompt]  # type: ignore[list-item]  # all int, by the line above
    if len(prompt) > MAX_PROMPTS:
        raise ApiError(
            400,
            f"prompt holds {len(prompt)} prompts; at most {MAX_PROMPTS} go into one request",
            param="prompt",
            code="invalid_value",
        )
    return [
        await _encode(on, item, f"prompt[{index}]") if isinstance(item, str) else item
        for index, item in enumerate(prompt)
        if not isinstance(item, int)
    ]


async def _encode(on: Served, text: str, param: str) -> list[int]:
    if not text:
        raise ApiError(400, f"{param} must not be empty", param=param, code="invalid_value")
    return await on.encode(text)
