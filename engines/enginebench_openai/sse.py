"""The bytes of answers: server-sent events for streams, JSON objects for whole ones.

A stream's events differ in little more than their text, so everything around it is encoded once
per request and the hot path only joins bytes. Knows the two shapes of OpenAI's API (text completion
and chat) and nothing of how tokens come about.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import msgspec

from enginebench_openai.bodies import StreamOptions
from enginebench_openai.errors import ApiError, error_bytes
from enginebench_openai.generation import Generation

__all__ = ["CHAT", "TEXT", "AnswerShape", "EventWriter", "answer_bytes", "error_event"]

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
        # with include_usage, chunks before the last carry "usage": null, as in OpenAI's API
        self._tail = b'],"usage":null}\n\n' if self._final_usage else b"]}\n\n"

    def text(self, generation: Generation) -> bytes:
        """The event for what `generation` has new; the last one carries its finish reason."""
        shape = self._shape
        reason = generation.finish_reason
        return b'%b%b{"index":%d,%b%b%b,"logprobs":null,"finish_reason":%b}%b' % (
            self._open(generation),
            self._head,
            generation.index,
            shape.before_text,
            _encode(generation.take()),
            shape.after_text,
            b"null" if reason is None else b'"%b"' % reason.encode(),
            self._usage_tail(generation),
        )

    def end(self, generations: Sequence[Generation]) -> bytes:
        """What closes the stream after every choice has ended."""
        if not self._final_usage:
            return DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, _encode(_usage(generations)), DONE)

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


def answer_bytes(shape: AnswerShape, model: str, generations: Sequence[Generation]) -> bytes:
    """The whole answer of a request that does not stream."""
    choices = [_choice(shape, generation) for generation in generations]
    facts = _facts(shape, shape.object, model)
    return _encode({**facts, "choices": choices, "usage": _usage(generations)})


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
    return {
        "index": generation.index,
        **content,
        "logprobs": None,
        "finish_reason": generation.finish_reason,
    }


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
