"""The bytes of answers: server-sent events for streams, JSON objects for whole ones.

A stream's events differ in little more than their text, so everything around it is encoded once
per request and the hot path only joins bytes. Knows the two shapes of OpenAI's API (text completion
and chat) and nothing of how tokens come about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import uuid4

import msgspec

from enginebench_openai.bodies import StreamOptions
from enginebench_openai.errors import ApiError, error_bytes
from enginebench_openai.generation import Generation
from enginebench_openai.logprobs import (
    Scored,
    chat_logprobs,
    completion_logprobs,
    prompt_logprob,
)

__all__ = [
    "CHAT",
    "TEXT",
    "AnswerShape",
    "EventWriter",
    "answer_bytes",
    "choice_of",
    "error_event",
    "logprobs_of",
]

_encode = msgspec.json.Encoder().encode
DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """Where text stands in a route's objects. `first` opens a choice's stream, if it is set."""

    id_prefix: str
    object: str
    chunk_object: str
    before_text: bytes
    after_text: bytes
    first: bytes | None


TEXT: Final = AnswerShape(
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    before_text=b'"text":',
    after_text=b"",
    first=None,
)
CHAT: Final = AnswerShape(
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    before_text=b'"delta":{"content":',
    after_text=b"}",
    first=b'"delta":{"role":"assistant","content":""}',
)


class EventWriter:
    """Writes the events of one stream; each method returns bytes to send."""

    def __init__(self, shape: AnswerShape, model: str, options: StreamOptions) -> None:
        self._shape = shape
        self._continuous = bool(options.continuous_usage_stats)
        self._final_usage = bool(options.include_usage)
        facts = _encode(_facts(shape, shape.chunk_object, model))
        self._head = b"data: " + facts[:-1] + b',"choices":['
        self._opened: set[int] = set()
        self._offsets: dict[int, int] = {}  # where the next token's text begins, by choice
        # with include_usage, chunks before the last carry "usage": null, as in OpenAI's API
        self._tail = b'],"usage":null}\n\n' if self._final_usage else b"]}\n\n"

    def text(self, generation: Generation) -> bytes:
        """The event for what `generation` has new; the last one carries its finish reason."""
        shape = self._shape
        reason = generation.finish_reason
        return b'%b%b{"index":%d,%b%b%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._open(generation),
            self._head,
            generation.index,
            shape.before_text,
            _encode(generation.take()),
            shape.after_text,
            b"null" if generation.request.logprobs is None else self._logprobs(generation),
            b"null" if reason is None else b'"%b"' % reason.encode(),
            self._usage_tail(generation),
        )

    def end(self, generations: Sequence[Generation]) -> bytes:
        """What closes the stream after every choice has ended."""
        if not self._final_usage:
            return DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, _encode(_usage(generations)), DONE)

    def _logprobs(self, generation: Generation) -> bytes:
        offset = self._offsets.get(generation.index, 0)
        found, self._offsets[generation.index] = logprobs_of(self._shape, generation, offset)
        return _encode(found)

    def _open(self, generation: Generation) -> bytes:
        first = self._shape.first
        if first is None or generation.index in self._opened:
            return b""
        self._opened.add(generation.index)
        head = b'%b{"index":%d,%b,"logprobs":null,"finish_reason":null}'
        return head % (self._head, generation.index, first) + self._tail

    def _usage_tail(self, generation: Generation) -> bytes:
        if not self._continuous:
            return self._tail
        return b'],"usage":%b}\n\n' % _encode(_usage((generation,)))


def error_event(error: ApiError) -> bytes:
    """An error in a stream that has begun; nothing follows it."""
    return b"data: " + error_bytes(error) + b"\n\n"


def answer_bytes(
    shape: AnswerShape,
    model: str,
    shown: Sequence[Generation],
    made: Sequence[Generation],
    choice: Callable[[Generation], dict[str, Any]] | None = None,
) -> bytes:
    """The whole answer of a request that does not stream; `choice` writes one of those shown."""
    write = choice or partial(_choice, shape)
    facts = _facts(shape, shape.object, model)
    return _encode({**facts, "choices": list(map(write, shown)), "usage": _usage(made)})


def _facts(shape: AnswerShape, kind: str, model: str) -> dict[str, Any]:
    return {
        "id": shape.id_prefix + uuid4().hex,
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _choice(shape: AnswerShape, generation: Generation) -> dict[str, Any]:
    text = generation.take()
    content: dict[str, Any] = {"text": text}
    if shape is CHAT:
        content = {"message": {"role": "assistant", "content": text, "refusal": None}}
    return choice_of(shape, generation, content, generation.finish_reason)


def choice_of(
    shape: AnswerShape, generation: Generation, content: dict[str, Any], reason: str | None
) -> dict[str, Any]:
    """`content` with what surrounds it."""
    scored = generation.request.logprobs is not None
    return {
        "index": generation.index,
        **content,
        "logprobs": logprobs_of(shape, generation, 0)[0] if scored else None,
        "finish_reason": reason,
        **_prompt_logprobs(generation),
    }


def logprobs_of(
    shape: AnswerShape, generation: Generation, offset: int
) -> tuple[dict[str, Any], int]:
    """Of what is new, in the route's form, and where the text after it begins."""
    if shape is CHAT:
        return chat_logprobs(generation.tokenizer, generation.take_scores()), 0
    echoed: list[Scored] = []
    if generation.shown.echo and not offset:
        echoed = [(generation.request.prompt[0], None), *generation.prompt_logprobs]
    scores = [*echoed, *generation.take_scores()]
    return completion_logprobs(generation.tokenizer, scores, offset)


def _prompt_logprobs(generation: Generation) -> dict[str, Any]:
    """A field of its own, for those who asked for it and no echo."""
    if generation.request.prompt_logprobs is None or generation.shown.echo:
        return {}
    tokenizer = generation.tokenizer
    scores = [prompt_logprob(tokenizer, score) for score in generation.prompt_logprobs]
    return {"prompt_logprobs": [None, *scores]}


def _usage(generations: Sequence[Generation]) -> dict[str, Any]:
    prompt = sum(generation.prompt_tokens for generation in generations)
    completion = sum(generation.completion_tokens for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(generation.cached_tokens for generation in generations)
        },
    }
