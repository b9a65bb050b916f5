"""One continuation of one prompt, as the front sees it: tokens come in, text goes out.

Detokenizes, watches for stop strings and counts; knows neither HTTP nor the engine. A `Generation`
is fed by `push` and read by `take`; both happen in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from enginebench_openai.protocol import FinishReason, GenerationRequest, TokenOutput
from enginebench_openai.stops import StopWatch

if TYPE_CHECKING:
    from enginebench_models import Tokenizer

__all__ = ["Blame", "Generation"]

# Whose fault an error is: the request can never be served, the engine failed at this one, the
# server is going down with everything in it, it took too long, or no slot came free in time.
Blame = Literal["request", "engine", "server", "timeout", "overload"]


class Generation:
    """The state of one choice of an answer. `error` is set when `finish_reason` is "error"."""

    __slots__ = (
        "_stops",
        "_stream",
        "_text",
        "blame",
        "cached_tokens",
        "completion_tokens",
        "error",
        "finish_reason",
        "first_token_at",
        "index",
        "last_token_at",
        "request",
    )

    def __init__(
        self, request: GenerationRequest, tokenizer: Tokenizer, *, index: int, stops: Sequence[str]
    ) -> None:
        self.request = request
        self.index = index
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.blame: Blame = "engine"
        self.first_token_at: float | None = None  # seconds, time.perf_counter
        self.last_token_at = 0.0
        self._stream = tokenizer.stream()
        self._stops = StopWatch(stops) if stops else None
        self._text: list[str] = []

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt was."""
        return len(self.request.prompt)

    @property
    def has_text(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._text)

    def push(self, output: TokenOutput) -> None:
        """Take what a step gave. A stop string ends it at the token that completed the string."""
        if output.cached_prompt_tokens:
            self.cached_tokens = output.cached_prompt_tokens
        if self._stops is None:
            self.completion_tokens += len(output.token_ids)
            if output.token_ids:
                self._add(self._stream.push(output.token_ids))
        elif self._push_watched(output.token_ids, self._stops):
            return
        if output.finish_reason is not None:
            self._finish(output.finish_reason, output.error)

    def take(self) -> str:
        """The text since the last call."""
        text = "".join(self._text)
        self._text.clear()
        return text

    def fail(self, reason: str, blame: Blame) -> None:
        """End with an error that did not come from the engine's own output."""
        self.finish_reason, self.error, self.blame = "error", reason, blame

    def _push_watched(self, token_ids: Sequence[int], stops: StopWatch) -> bool:
        for token_id in token_ids:
            self.completion_tokens += 1
            self._add(stops.push(self._stream.push((token_id,))))
            if stops.stopped:
                self.finish_reason = "stop"
                return True
        return False

    def _finish(self, reason: FinishReason, error: str | None) -> None:
        rest = self._stream.finish()
        if self._stops is not None:
            rest = self._stops.push(rest) + self._stops.finish()
            if self._stops.stopped:
                reason = "stop"
        self._add(rest)
        self.finish_reason = reason
        if reason in ("error", "abort"):
            self.finish_reason = "error"
            self.error = error or "the engine gave up this request without saying why"

    def _add(self, text: str) -> None:
        if text:
            self._text.append(text)
