"""Chat answers that are more than plain text: reasoning set apart, tool calls taken out.

Only chats that can have either are read so; all others keep the plain path of `sse.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from enginebench_openai.bodies import StreamOptions
from enginebench_openai.deltas import CallArguments, CallStart, Content, Delta, Reader, Reasoning
from enginebench_openai.generation import Generation
from enginebench_openai.reasoning import ReasoningReader, ReasoningTags
from enginebench_openai.sse import CHAT, EventWriter, answer_bytes, choice_of
from enginebench_openai.tool_calls import ToolCallReader, ToolFormat

__all__ = ["ChatReader", "ReadEventWriter", "read_answer_bytes"]

_encode = msgspec.json.Encoder().encode


class ChatReader:
    """Reads one answer: first its reasoning, then the calls in what is left."""

    def __init__(
        self,
        *,
        reasoning: ReasoningTags | None,
        inside_reasoning: bool,
        tools: ToolFormat | None,
        most_calls: int | None,
    ) -> None:
        """`reasoning` None: the model does not reason."""
        self._readers: list[Reader] = []
        if reasoning is not None:
            self._readers.append(ReasoningReader(reasoning, inside=inside_reasoning))
        if tools is not None:
            self._readers.append(ToolCallReader(tools, most_calls))
        self.called = False

    def read(self, generation: Generation) -> list[Delta]:
        """What is new of a generation."""
        found: list[Delta] = [Content(text)] if (text := generation.take()) else []
        ended = generation.finish_reason is not None
        for reader in self._readers:
            found = [part for delta in found for part in _pass(reader, delta)]
            if ended:
                found += reader.finish()
        self.called |= any(isinstance(delta, CallStart) for delta in found)
        return found

    def finish_reason(self, generation: Generation) -> str | None:
        """A message that calls has ended for its calls."""
        reason = generation.finish_reason
        return "tool_calls" if self.called and reason == "stop" else reason


def _pass(reader: Reader, delta: Delta) -> Sequence[Delta]:
    return reader.push(delta.text) if isinstance(delta, Content) else (delta,)


class ReadEventWriter(EventWriter):
    """An event for each delta; the last one of a choice carries its finish reason."""

    def __init__(self, model: str, options: StreamOptions, reader: Callable[[], ChatReader]):
        super().__init__(CHAT, model, options)
        self._make, self._readers = reader, dict[int, ChatReader]()

    def text(self, generation: Generation) -> bytes:
        """The events for what `generation` has new."""
        reader = self._readers.setdefault(generation.index, self._make())
        bodies = [_delta(delta) for delta in reader.read(generation)]
        ended, scored = (
            generation.finish_reason is not None,
            generation.request.logprobs is not None,
        )
        if not bodies and (ended or (scored and generation.scores)):
            bodies.append({})
        logprobs = self._logprobs(generation) if scored and bodies else b"null"
        events = [self._open(generation)]
        for at, body in enumerate(bodies):
            last = ended and at == len(bodies) - 1
            reason = reader.finish_reason(generation) if last else None
            events.append(self._event(generation, body, b"null" if at else logprobs, reason))
        return b"".join(events)

    def _event(
        self, generation: Generation, delta: dict[str, Any], logprobs: bytes, reason: str | None
    ) -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            generation.index,
            _encode(delta),
            logprobs,
            _encode(reason),
            self._usage_tail(generation),
        )


def read_answer_bytes(
    model: str,
    make: Callable[[], ChatReader],
    shown: Sequence[Generation],
    made: Sequence[Generation],
) -> bytes:
    """The whole answer of a chat that does not stream."""

    def choice(generation: Generation) -> dict[str, Any]:
        reader = make()
        message = _message(reader.read(generation))
        reason = reader.finish_reason(generation)
        return choice_of(CHAT, generation, {"message": message}, reason)

    return answer_bytes(CHAT, model, shown, made, choice)


def _message(deltas: Sequence[Delta]) -> dict[str, Any]:
    """The whole message; its content is null where there are calls instead."""
    content = "".join(delta.text for delta in deltas if isinstance(delta, Content))
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, Reasoning))
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        if isinstance(delta, CallStart):
            named = {"name": delta.name, "arguments": ""}
            calls.append({"id": delta.id, "type": "function", "function": named})
        elif isinstance(delta, CallArguments):
            calls[delta.index]["function"]["arguments"] += delta.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return message


def _delta(delta: Delta) -> dict[str, Any]:
    if isinstance(delta, Content):
        return {"content": delta.text}
    if isinstance(delta, Reasoning):
        return {"reasoning_content": delta.text}
    if isinstance(delta, CallArguments):
        return {"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]}
    named = {"name": delta.name, "arguments": ""}
    call = {"index": delta.index, "id": delta.id, "type": "function", "function": named}
    return {"tool_calls": [call]}
