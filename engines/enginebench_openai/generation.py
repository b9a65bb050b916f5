"""One continuation of one prompt, as the front sees it: tokens come in, text goes out.

Detokenizes, watches for stop strings and counts; knows neither HTTP nor the engine. A `Generation`
is fed by `push` and read by `take`; both happen in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from enginebench_openai.protocol import (
    FinishReason,
    GenerationRequest,
    TokenLogprob,
    TokenOutput,
)
from enginebench_openai.stops import StopWatch

if TYPE_CHECKING:
    from enginebench_models import Tokenizer

__all__ = ["Blame", "Generation", "Shown"]

# Whose fault an error is: the request can never be served, the engine failed at this one, the
# server is going down with everything in it, it took too long, or no slot came free in time.
Blame = Literal["request", "engine", "server", "timeout", "overload"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a generation its answer shows.

    `echo` is the prompt's text, where it comes first. `special`: special tokens are written out,
    for those who look for them. `output` False shows the prompt alone. `first` is False for further
    choices of a prompt, which is counted once. `tokens`: ids are kept for `take_tokens`.
    """

    echo: str = ""
    special: bool = False
    output: bool = True
    first: bool = True
    tokens: bool = False


_USUAL: Final = Shown()


class Generation:
    """The state of one choice of an answer. `error` is set when `finish_reason` is "error".

    `prompt_logprobs` are all of the prompt's, from its second token on, where they were asked for.
    """

    __slots__ = (
        "_echo",
        "_scores",
        "_stops",
        "_stream",
        "_text",
        "_tokens",
        "blame",
        "cached_tokens",
        "completion_tokens",
        "embedding",
        "error",
        "finish_reason",
        "first_token_at",
        "index",
        "last_token_at",
        "prompt_logprobs",
        "request",
        "sent_at",
        "shown",
        "tokenizer",
    )

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        *,
        index: int,
        stops: Sequence[str],
        shown: Shown = _USUAL,
    ) -> None:
        self.request, self.tokenizer, self.shown = request, tokenizer, shown
        self.index = index
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.blame: Blame = "engine"
        self.sent_at = 0.0  # to the engine; seconds, time.perf_counter
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.embedding: tuple[float, ...] | None = None
        self.prompt_logprobs: list[TokenLogprob] = []
        self._stream = tokenizer.stream(skip_special=not shown.special)
        self._stops = StopWatch(stops) if stops else None
        self._echo = shown.echo  # waits for the first token, and so for all of the prompt's scores
        self._text: list[str] = []
        self._scores: list[TokenLogprob] = []
        self._tokens: list[int] = []

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt was; 0 for further choices of the same prompt."""
        return len(self.request.prompt) if self.shown.first else 0

    @property
    def has_text(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._text)

    @property
    def stopping_word(self) -> str:
        """The stop string that ended it, "" if none did."""
        return "" if self._stops is None else self._stops.found

    def push(self, output: TokenOutput) -> None:
        """Take what a step gave. A stop string ends it at the token that completed the string."""
        if output.cached_prompt_tokens and self.shown.first:
            self.cached_tokens = output.cached_prompt_tokens
        if output.logprobs or output.prompt_logprobs:
            self._keep_scores(output)
        if self.shown.tokens and self.shown.output:
            self._tokens += output.token_ids
        if self._echo and (output.token_ids or output.finish_reason):
            self._text.append(self._echo)
            self._echo = ""
        if not self.shown.output:
            self.embedding = output.embedding
        elif self._stops is None:
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

    @property
    def scores(self) -> Sequence[TokenLogprob]:
        """The logprobs that `take_scores` would give."""
        return self._scores

    def take_scores(self) -> list[TokenLogprob]:
        """The logprobs of output tokens since the last call."""
        scores, self._scores = self._scores, []
        return scores

    def take_tokens(self) -> list[int]:
        """The ids of output tokens since the last call, where they are kept."""
        tokens, self._tokens = self._tokens, []
        return tokens

    def fail(self, reason: str, blame: Blame) -> None:
        """End with an error that did not come from the engine's own output."""
        self.finish_reason, self.error, self.blame = "error", reason, blame

    def _keep_scores(self, output: TokenOutput) -> None:
        self.prompt_logprobs += output.prompt_logprobs
        if self.shown.output:
            self._scores += output.logprobs

    def _push_watched(self, token_ids: Sequence[int], stops: StopWatch) -> bool:
        for at, token_id in enumerate(token_ids):
            self.completion_tokens += 1
            if self.completion_tokens <= self.request.min_tokens:
                self._add(self._stream.push((token_id,)))
                continue
            self._add(stops.push(self._stream.push((token_id,))))
            if stops.stopped:
                self.finish_reason = "stop"
                self._drop_after(token_ids, at)
                return True
        return False

    def _drop_after(self, token_ids: Sequence[int], at: int) -> None:
        """Tokens that the engine said in the same step, after the one that ended it."""
        beyond = len(token_ids) - 1 - at
        if beyond:
            del self._scores[-beyond:]
            del self._tokens[-beyond:]

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
