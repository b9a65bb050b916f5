"""The half that both generating routes share: check what is left to check, then answer.

A route reads its own body and makes token ids of it (`Asked`); from here on a completion and a chat
differ only in the shape of their answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.access import client_of
from enginebench_openai.answer import EventStream, whole_answer
from enginebench_openai.bodies import GenerationBody
from enginebench_openai.chat_reading import ChatReader, ReadEventWriter, read_answer_bytes
from enginebench_openai.choices import Choices, choices, kept, of_choice
from enginebench_openai.errors import ApiError
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation, Shown
from enginebench_openai.grammar import check_grammar
from enginebench_openai.params import (
    check_prompt,
    output_budget,
    priority,
    sampling_params,
    stop_strings,
    stream_options,
)
from enginebench_openai.protocol import Feature, GenerationRequest, Grammar
from enginebench_openai.requirements import check_features
from enginebench_openai.served import Served, served
from enginebench_openai.sse import AnswerShape, EventWriter, answer_bytes

__all__ = ["Asked", "flight_of", "generate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a route made of its body. The fields' names are for errors.

    `default_max_tokens` None: what the context leaves. `arrived_at` is on time.perf_counter.
    `logprobs` is how many alternatives each token of the output gets, None without logprobs.
    `echoes` are the prompts' texts, where they come first. `reader` makes what reads a chat's
    answers, where they can be more than text. `keep_tokens`: the answer shows token ids.
    """

    shape: AnswerShape
    prompts: Sequence[Sequence[int]]
    prompt_field: str
    max_tokens: int | None
    max_tokens_field: str
    default_max_tokens: int | None
    arrived_at: float
    logprobs: int | None = None
    echoes: Sequence[str] | None = None
    grammar: Grammar | None = None
    grammar_field: str = ""
    reader: Callable[[], ChatReader] | None = None
    keep_tokens: bool = False


async def generate(request: Request, body: GenerationBody, asked: Asked) -> ASGIApp:
    """Continue every prompt; the answer, or a stream of it."""
    on = served(request)
    options, wanted = stream_options(body), choices(body)
    flight = await flight_of(request, body, asked)
    if body.stream:
        writer = EventWriter(asked.shape, on.name, options)
        if asked.reader is not None:
            writer = ReadEventWriter(on.name, options, asked.reader)
        return EventStream(on.front, flight, writer)
    write = partial(answer_bytes, asked.shape, on.name)
    if asked.reader is not None:
        write = partial(read_answer_bytes, on.name, asked.reader)
    pick = partial(kept, wanted=wanted) if wanted.made > wanted.shown else None
    return await whole_answer(request, on.front, flight, write, pick)


async def flight_of(request: Request, body: GenerationBody, asked: Asked) -> Flight:
    """What answers the request, not yet submitted; 400 for what cannot be."""
    if body.stream and body.prompt_logprobs is not None:
        raise ApiError(
            400,
            "prompt_logprobs cannot be streamed: use /v1/completions with echo and logprobs",
            param="prompt_logprobs",
            code="invalid_value",
        )
    if asked.grammar is not None:
        await _check_grammar(asked.grammar, asked.grammar_field)
    return Flight(
        _generations(served(request), body, asked, choices(body)),
        streaming=bool(body.stream),
        arrived_at=asked.arrived_at,
        client=client_of(request.scope),
        priority=priority(body),
    )


def _generations(
    on: Served, body: GenerationBody, asked: Asked, wanted: Choices
) -> Sequence[Generation]:
    works = [
        _work(on, body, asked, index, ranked=wanted.made > wanted.shown)
        for index in range(len(asked.prompts))
    ]
    if not on.front.features.issuperset(Feature):
        fields = {Feature.GRAMMAR: asked.grammar_field, Feature.PROMPT_LOGPROBS: "prompt_logprobs"}
        if asked.echoes is not None and body.prompt_logprobs is None:
            fields[Feature.PROMPT_LOGPROBS] = "echo"
        if asked.logprobs is None:
            fields[Feature.LOGPROBS] = "best_of"
        check_features(on.front.features, works[0], fields)
    stops = stop_strings(body)
    return [
        Generation(
            of_choice(work, uuid4().hex, number),
            on.tokenizer,
            index=index * wanted.made + number,
            stops=stops,
            shown=_shown(asked, index, number),
        )
        for index, work in enumerate(works)
        for number in range(wanted.made)
    ]


def _work(
    on: Served, body: GenerationBody, asked: Asked, index: int, *, ranked: bool
) -> GenerationRequest:
    """What the engine gets for one prompt. An echo with logprobs needs those of the prompt too."""
    logprobs = 0 if asked.logprobs is None and ranked else asked.logprobs
    of_prompt = body.prompt_logprobs
    if asked.echoes is not None and asked.logprobs is not None:
        of_prompt = asked.logprobs
    work = GenerationRequest(
        request_id="",
        prompt=tuple(asked.prompts[index]),
        max_tokens=_budget(on, asked, index),
        sampling=sampling_params(body, on.tokenizer, on.vocab_size),
        stop_token_ids=frozenset() if body.ignore_eos else on.tokenizer.eos_ids,
        logprobs=logprobs,
        prompt_logprobs=of_prompt,
        grammar=asked.grammar,
    )
    return replace(work, min_tokens=_min_tokens(body, work.max_tokens)) if body.min_tokens else work


def _shown(asked: Asked, index: int, number: int) -> Shown:
    return Shown(
        echo="" if asked.echoes is None else asked.echoes[index],
        special=asked.reader is not None,
        output=asked.max_tokens != 0,
        first=number == 0,
        tokens=asked.keep_tokens,
    )


def _min_tokens(body: GenerationBody, max_tokens: int) -> int:
    least = body.min_tokens or 0
    if least > max_tokens:
        raise ApiError(
            400,
            f"min_tokens is {least}, but at most {max_tokens} tokens may be generated",
            param="min_tokens",
            code="invalid_value",
        )
    return least


def _budget(on: Served, asked: Asked, index: int) -> int:
    """The output limit of one prompt, which is checked on the way."""
    prompt, field = asked.prompts[index], asked.prompt_field
    check_prompt(
        prompt,
        vocab_size=on.vocab_size,
        context_length=on.front.context_length,
        param=f"{field}[{index}]" if len(asked.prompts) > 1 else field,
    )
    only_echo = asked.max_tokens == 0 and asked.echoes is not None
    return output_budget(
        1 if only_echo else asked.max_tokens,
        default=asked.default_max_tokens,
        prompt_tokens=len(prompt),
        context_length=on.front.context_length,
        param=asked.max_tokens_field,
        shifts=Feature.CONTEXT_SHIFT in on.front.features,
    )


async def _check_grammar(grammar: Grammar, field: str) -> None:
    """In a thread: a large schema takes a while."""
    try:
        await asyncio.to_thread(check_grammar, grammar)
    except ValueError as error:
        raise ApiError(400, f"{field}: {error}", param=field, code="invalid_grammar") from error
