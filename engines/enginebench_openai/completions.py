"""/v1/completions: text or token ids, one prompt or a list, streamed or whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.bodies import CompletionBody, decode
from enginebench_openai.errors import ApiError
from enginebench_openai.generate import Asked, generate
from enginebench_openai.params import MAX_LOGPROBS, MAX_PROMPTS
from enginebench_openai.ranges import out_of_range
from enginebench_openai.served import Served, read_body, served
from enginebench_openai.sse import TEXT
from enginebench_openai.structured import requested_grammar

__all__ = ["completions", "token_ids"]

DEFAULT_MAX_TOKENS: Final = 16  # OpenAI's
_decoder = msgspec.json.Decoder(CompletionBody)


async def completions(request: Request) -> ASGIApp:
    """POST /v1/completions."""
    on = served(request)
    raw, arrived_at = await read_body(request), time.perf_counter()
    body = decode(_decoder, raw)
    on.check_model(body.model)
    on.front.require_ready()
    prompts = await token_ids(on, body.prompt, "prompt")
    grammar, grammar_field = requested_grammar(body)
    if body.logprobs is not None and not 0 <= body.logprobs <= MAX_LOGPROBS:
        raise out_of_range("logprobs", body.logprobs, f"between 0 and {MAX_LOGPROBS}")
    asked = Asked(
        shape=TEXT,
        prompts=prompts,
        prompt_field="prompt",
        max_tokens=body.max_tokens,
        max_tokens_field="max_tokens",
        default_max_tokens=DEFAULT_MAX_TOKENS,
        arrived_at=arrived_at,
        logprobs=body.logprobs,
        echoes=_echoes(on, body.prompt, prompts) if body.echo else None,
        grammar=grammar,
        grammar_field=grammar_field,
    )
    return await generate(request, body, asked)


def _echoes(
    on: Served, prompt: str | list[str | int | list[int]], prompts: Sequence[Sequence[int]]
) -> Sequence[str]:
    """The prompts' texts: as they were given, or what their tokens say."""
    given = [prompt] if isinstance(prompt, str) else prompt
    return [
        text if isinstance(text, str) else on.tokenizer.decode(ids, skip_special=False)
        for text, ids in zip(given if len(given) == len(prompts) else [None], prompts, strict=True)
    ]


async def token_ids(
    on: Served, prompt: str | list[str | int | list[int]], field: str
) -> Sequence[Sequence[int]]:
    """One list of token ids per prompt."""
    if isinstance(prompt, str):
        return [await _encode(on, prompt, field)]
    if not prompt:
        raise ApiError(400, f"{field} must not be empty", param=field, code="invalid_value")
    kinds = set(map(type, prompt))
    if len(kinds) > 1:
        raise ApiError(
            400,
            f"{field} must be all strings, all token ids, or all lists of token ids, not a mixture",
            param=field,
            code="invalid_type",
        )
    if kinds == {int}:
        return [prompt]  # type: ignore[list-item]  # all int, by the line above
    if len(prompt) > MAX_PROMPTS:
        raise ApiError(
            400,
            f"{field} holds {len(prompt)} prompts; at most {MAX_PROMPTS} go into one request",
            param=field,
            code="invalid_value",
        )
    return [
        await _encode(on, item, f"{field}[{index}]") if isinstance(item, str) else item
        for index, item in enumerate(prompt)
        if not isinstance(item, int)
    ]


async def _encode(on: Served, text: str, param: str) -> list[int]:
    if not text:
        raise ApiError(400, f"{param} must not be empty", param=param, code="invalid_value")
    return await on.encode(text)
