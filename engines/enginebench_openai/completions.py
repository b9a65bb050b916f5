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
from enginebench_openai.served import Served, read_body, served
from enginebench_openai.sse import TEXT

__all__ = ["completions"]

DEFAULT_MAX_TOKENS: Final = 16  # OpenAI's
MAX_PROMPTS: Final = 1024
_decoder = msgspec.json.Decoder(CompletionBody)


async def completions(request: Request) -> ASGIApp:
    """POST /v1/completions."""
    on = served(request)
    raw, arrived_at = await read_body(request), time.perf_counter()
    body = decode(_decoder, raw)
    on.check_model(body.model)
    on.front.require_ready()
    asked = Asked(
        shape=TEXT,
        prompts=await _token_ids(on, body.prompt),
        prompt_field="prompt",
        max_tokens=body.max_tokens,
        max_tokens_field="max_tokens",
        default_max_tokens=DEFAULT_MAX_TOKENS,
        arrived_at=arrived_at,
    )
    return await generate(request, body, asked)


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
