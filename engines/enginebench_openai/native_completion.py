"""POST /completion: llama-server's own route, for clients that were written for it.

A body in its words (`native_bodies.py`) becomes the same kind of flight as a completion of OpenAI's
API; the answer is in its form (`native_answers.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.answer import EventStream, whole_answer
from enginebench_openai.bodies import decode
from enginebench_openai.errors import ApiError
from enginebench_openai.generate import Asked, flight_of
from enginebench_openai.native_answers import NativeWriter
from enginebench_openai.native_bodies import NativeBody, completion_body
from enginebench_openai.params import MAX_LOGPROBS, MAX_PROMPTS
from enginebench_openai.protocol import Feature
from enginebench_openai.ranges import out_of_range
from enginebench_openai.served import Served, read_body, served
from enginebench_openai.sse import TEXT
from enginebench_openai.structured import requested_grammar

__all__ = ["native_completion"]

Prompt = str | list[str | int]
_decoder = msgspec.json.Decoder(NativeBody)
_FIELDS: Final = {
    "repetition_penalty": "repeat_penalty",
    "structured_outputs": "json_schema",
    "structured_outputs.json": "json_schema",
    "n": "n_cmpl",
}


async def native_completion(request: Request) -> ASGIApp:
    """POST /completion."""
    on = served(request)
    raw, arrived_at = await read_body(request), time.perf_counter()
    body = decode(_decoder, raw)
    on.check_model(body.model)
    on.front.require_ready()
    _check(body, on)
    prompts = [await _encode(on, prompt) for prompt in _prompts(body.prompt)]
    try:
        return await _answer(request, body, prompts, arrived_at)
    except ApiError as error:
        if error.param in _FIELDS:
            raise _in_its_words(error, error.param) from error
        raise


async def _answer(
    request: Request, body: NativeBody, prompts: Sequence[Sequence[int]], arrived_at: float
) -> ASGIApp:
    on = served(request)
    ours = completion_body(body, on.name, on.tokenizer)
    grammar, grammar_field = requested_grammar(ours)
    only_read = body.n_predict == 0
    asked = Asked(
        shape=TEXT,
        prompts=prompts,
        prompt_field="prompt",
        max_tokens=0 if only_read else None,
        max_tokens_field="n_predict",
        default_max_tokens=None if body.n_predict < 0 else body.n_predict,
        arrived_at=arrived_at,
        logprobs=body.n_probs or None,
        echoes=[""] * len(prompts) if only_read else None,
        grammar=grammar,
        grammar_field=_FIELDS.get(grammar_field, grammar_field),
        keep_tokens=body.return_tokens or body.stream,
    )
    flight = await flight_of(request, ours, asked)
    writer = NativeWriter(body, on.name, on.front.context_length, on.front.slots or 1)
    if body.stream:
        return EventStream(on.front, flight, writer)
    return await whole_answer(request, on.front, flight, writer.whole)


def _check(body: NativeBody, on: Served) -> None:
    if body.n_predict < -1:
        raise out_of_range("n_predict", body.n_predict, "0 or more (-1: what the context leaves)")
    if not 0 <= body.n_probs <= MAX_LOGPROBS:
        raise out_of_range("n_probs", body.n_probs, f"between 0 and {MAX_LOGPROBS}")
    if body.n_keep and Feature.CONTEXT_SHIFT in on.front.features:
        raise out_of_range("n_keep", body.n_keep, "0: the server's option keep_tokens says it")
    only = 0 if (on.front.slots or 1) == 1 else -1
    if body.id_slot not in (-1, only):
        raise out_of_range("id_slot", body.id_slot, "-1 (any)" + " or 0" * (only == 0))


def _prompts(given: str | list[str | int | list[str | int]]) -> Sequence[Prompt]:
    """One text; one list of token ids, or of both; else a list of prompts."""
    if isinstance(given, str):
        return [given]
    flat = [part for part in given if not isinstance(part, list)]
    kinds = set(map(type, flat))
    if len(flat) == len(given) and int in kinds:
        return [flat]
    if int in kinds:
        raise _wrong("holds token ids beside lists: put each prompt into a list of its own")
    if not 1 <= len(given) <= MAX_PROMPTS:
        raise _wrong(f"must hold 1 to {MAX_PROMPTS} prompts; got {len(given)}")
    return [part for part in given if not isinstance(part, int)]


async def _encode(on: Served, prompt: Prompt) -> list[int]:
    """Text and token ids in turn; only a text at the beginning gets a BOS token."""
    tokens: list[int] = []
    for at, part in enumerate([prompt] if isinstance(prompt, str) else prompt):
        if isinstance(part, int):
            tokens.append(part)
        else:
            tokens += await on.encode(part, add_bos=None if at == 0 else False)
    return tokens


def _wrong(problem: str) -> ApiError:
    return ApiError(400, f"prompt {problem}", param="prompt", code="invalid_value")


def _in_its_words(error: ApiError, param: str) -> ApiError:
    """The error with the field's name in llama-server's API."""
    name = _FIELDS[param]
    return ApiError(
        error.status,
        error.message.replace(param, name, 1),
        param=name,
        code=error.code,
        headers=error.headers,
    )
