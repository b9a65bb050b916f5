"""Answers in llama-server's form: one object per completion, or a stream of events.

A stream's events carry content and tokens until one with "stop": true, which carries all the rest;
no [DONE] follows it. Several completions (several prompts, or n_cmpl) answer as a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from enginebench_openai.generation import Generation
from enginebench_openai.logprobs import native_logprobs
from enginebench_openai.native_bodies import NativeBody, generation_settings

__all__ = ["NativeWriter"]

_encode = msgspec.json.Encoder().encode


class NativeWriter:
    """Writes the answer to one request, whole or event by event."""

    def __init__(self, body: NativeBody, model: str, context_length: int, slots: int) -> None:
        self._body, self._model, self._context_length = body, model, context_length
        self._id_slot = 0 if slots == 1 else -1
        self._new_lines: set[int] = set()  # choices whose text has a line break

    def whole(self, shown: Sequence[Generation], made: Sequence[Generation]) -> bytes:
        """All completions: an object, or a list of several."""
        found = [self._complete(one, self._new(one)) for one in shown]
        return _encode(found[0] if len(found) == 1 else found)

    def text(self, generation: Generation) -> bytes:
        """The events for what `generation` has new."""
        new = self._new(generation)
        events = []
        if new["content"] or new["tokens"]:
            events.append(self._partial(generation, new))
            new = {"content": "", "tokens": []}
        if generation.finish_reason is not None:
            events.append(self._complete(generation, new))
        return b"".join(b"data: " + _encode(event) + b"\n\n" for event in events)

    def end(self, generations: Sequence[Generation]) -> bytes:
        """Nothing: the last event said so."""
        return b""

    def _new(self, generation: Generation) -> dict[str, Any]:
        text, tokens = generation.take(), generation.take_tokens()
        if "\n" in text:
            self._new_lines.add(generation.index)
        new: dict[str, Any] = {"content": text, "tokens": tokens}
        if generation.request.logprobs is not None:
            scores = generation.take_scores()
            new["completion_probabilities"] = native_logprobs(generation.tokenizer, scores)
        return new

    def _partial(self, generation: Generation, new: dict[str, Any]) -> dict[str, Any]:
        timings = {"timings": _timings(generation)} if self._body.timings_per_token else {}
        return {
            "index": generation.index,
            **new,
            "stop": False,
            "id_slot": self._id_slot,
            "tokens_predicted": generation.completion_tokens,
            "tokens_evaluated": len(generation.request.prompt),
            **timings,
        }

    def _complete(self, generation: Generation, new: dict[str, Any]) -> dict[str, Any]:
        request = generation.request
        length = len(request.prompt) + generation.completion_tokens
        is_limit = generation.finish_reason == "length"
        word = generation.stopping_word
        answer = {
            "index": generation.index,
            **new,
            "stop": True,
            "id_slot": self._id_slot,
            "model": self._model,
            "tokens_predicted": generation.completion_tokens,
            "tokens_evaluated": len(request.prompt),
            "tokens_cached": generation.cached_tokens,
            "generation_settings": generation_settings(
                self._body, self._context_length, self._model
            ),
            "prompt": generation.tokenizer.decode(request.prompt, skip_special=False),
            "has_new_line": generation.index in self._new_lines,
            "truncated": is_limit and length >= self._context_length,
            "stop_type": "limit" if is_limit else "word" if word else "eos",
            "stopping_word": word,
            "timings": _timings(generation),
        }
        fields = self._body.response_fields
        return answer if fields is None else _picked(answer, fields)


def _timings(generation: Generation) -> dict[str, float]:
    """The prompt's from the engine's start on it to the first token, then token by token."""
    cached, count = generation.cached_tokens, generation.completion_tokens
    prompt = len(generation.request.prompt) - cached
    first_at = generation.first_token_at or generation.sent_at
    prompt_ms = (first_at - generation.sent_at) * 1e3
    predicted_ms = max(0.0, generation.last_token_at - first_at) * 1e3
    return {
        "cache_n": cached,
        **_pace("prompt", prompt, prompt_ms),
        **_pace("predicted", count, predicted_ms),
    }


def _pace(name: str, count: int, spent_ms: float) -> dict[str, float]:
    return {
        f"{name}_n": count,
        f"{name}_ms": spent_ms,
        f"{name}_per_token_ms": spent_ms / count if count else 0.0,
        f"{name}_per_second": count / spent_ms * 1e3 if spent_ms else 0.0,
    }


def _picked(answer: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Those that there are; "a/b" is b of a, at the top."""
    found: dict[str, Any] = {}
    for field in fields:
        value: Any = answer
        for name in field.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[field.rpartition("/")[2]] = value
    return found
