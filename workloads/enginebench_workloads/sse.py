"""What an answer meant: server-sent events of the OpenAI API, turned into a `RequestRecord`.

Runs after the answer is complete, in steps that leave the driver time for what arrives meanwhile.
Only chunks that carry
generated text of any channel (text, content, reasoning, tool calls) count as chunks: role-only,
empty and usage-only events do not. A chunk is not a token: how many tokens each held is taken from
the server's usage, per chunk where offered.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from enginebench.types import TokenCountSource
from enginebench_workloads.exchange import Exchange

__all__ = ["Answer", "read_answer", "reading", "spread_tokens"]

ERROR_CHARACTERS = 500
EVENTS_A_STEP = 8


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct, gc=False):
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


@dataclass(slots=True)
class Answer:
    """The raw facts of one answer; `chunk_tokens` has an entry for each entry of `chunk_ns`."""

    chunk_ns: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    token_count_source: TokenCountSource | None = None
    texts: list[str] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None


def read_answer(exchange: Exchange) -> Answer:
    """`reading` in one go."""
    steps = reading(exchange)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(Answer, end.value)


def reading(exchange: Exchange) -> Generator[None, None, Answer]:
    """Parse a finished exchange, pausing after every few events; returns the Answer.

    What is wrong with it stands in `Answer.error`, never in an exception.
    """
    answer = Answer()
    if exchange.status != 200:
        answer.error = _refusal(exchange.status, b"".join(data for _, data in exchange.body))
        return answer
    try:
        yield from _read_events(exchange.body, answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        answer.error = f"malformed stream: {error}"[:ERROR_CHARACTERS]
    return answer


def _read_events(body: Sequence[tuple[int, bytes]], answer: Answer) -> Iterator[None]:
    running: list[int | None] = []  # completion tokens so far, as each chunk with text told them
    try:
        yield from _take_events(body, answer, running)
    finally:  # of a stream that turns malformed, what came before counts
        _count_tokens(running, answer)


def _take_events(
    body: Sequence[tuple[int, bytes]], answer: Answer, running: list[int | None]
) -> Iterator[None]:
    done = False
    for count, (stamp, payload) in enumerate(_events(body)):
        if count % EVENTS_A_STEP == 0:
            yield
        if payload == b"[DONE]":
            done = True
            continue
        event = _decode_event(payload)
        if event.error is not None:
            answer.error = f"error in the stream: {event.error}"[:ERROR_CHARACTERS]
        if event.usage is not None:
            _keep_usage(event.usage, answer)
        text = _generated(event, answer)
        if text is not None:
            answer.chunk_ns.append(stamp)
            answer.texts.append(text)
            running.append(event.usage.completion_tokens if event.usage else None)
    if answer.error is None and not done and answer.finish_reason is None:
        answer.error = "truncated stream: neither a finish reason nor [DONE] arrived"


def _events(body: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The data of each event, stamped with the arrival of its last byte (the blank line)."""
    buffer = b""
    for stamp, data in body:
        if not buffer and data.endswith(b"\n\n") and data.find(b"\n") == len(data) - 2:
            if payload := _payload(data[:-2]):  # the usual case, made cheap: just one event
                yield stamp, payload
            continue
        buffer += data
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *events, buffer = buffer.split(b"\n\n")
        for event in events:
            if payload := _payload(event):
                yield stamp, payload
    if buffer.strip() and (payload := _payload(buffer)):
        yield body[-1][0], payload


def _payload(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def _generated(event: _Event, answer: Answer) -> str | None:
    """The text that an event carries ("" for a tool call), None if it carries nothing generated."""
    found: str | None = None
    for choice in event.choices:
        answer.finish_reason = choice.finish_reason or answer.finish_reason
        if choice.text:
            found = (found or "") + choice.text
        delta = choice.delta or choice.message
        if delta is not None:
            found = _with_delta(found, delta)
    return found


def _with_delta(found: str | None, delta: _Delta) -> str | None:
    for text in (delta.reasoning_content or delta.reasoning, delta.content):
        if text:
            found = (found or "") + text
    return "" if found is None and delta.tool_calls else found


def _keep_usage(usage: _Usage, answer: Answer) -> None:
    if usage.prompt_tokens is not None:
        answer.prompt_tokens = usage.prompt_tokens
    if usage.completion_tokens is not None:
        answer.completion_tokens = usage.completion_tokens
    if usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens is not None:
        answer.cached_prompt_tokens = usage.prompt_tokens_details.cached_tokens


def _count_tokens(running: Sequence[int | None], answer: Answer) -> None:
    """Tokens of each chunk: per-chunk usage first, then the usage at the end, then one a chunk.

    Tokens at the end that gave no text, such as half a character, count with the last chunk.
    """
    known = [count for count in running if count is not None]
    if running and len(known) == len(running) and known == sorted(known):
        known[-1] = max(known[-1], answer.completion_tokens or 0)
        answer.chunk_tokens = [b - a for a, b in zip([0, *known[:-1]], known, strict=True)]
        answer.token_count_source = "chunk_usage"
    elif answer.completion_tokens is not None:
        answer.chunk_tokens = spread_tokens(answer.completion_tokens, len(running))
        answer.token_count_source = "usage"
    elif running:
        answer.chunk_tokens = [1] * len(running)
        answer.token_count_source = "chunks"


def spread_tokens(tokens: int, chunks: int) -> list[int]:
    """Share `tokens` out over `chunks`: one to the first, the others as evenly as possible.

    The sum is `tokens` whenever there is a chunk; fewer tokens than chunks give zeros at the end.
    """
    if chunks == 0:
        return []
    first = min(1, tokens) if chunks > 1 else tokens
    rest, others = tokens - first, chunks - 1
    edges = [rest * i // others for i in range(others + 1)] if others else []
    return [first, *(b - a for a, b in itertools.pairwise(edges))]


def _refusal(status: int | None, body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    try:
        error = msgspec.json.decode(body).get("error")
        text = error.get("message", text) if isinstance(error, dict) else str(error or text)
    except (msgspec.DecodeError, AttributeError):
        pass
    return f"HTTP {status}: {text}"[:ERROR_CHARACTERS]
