"""The null engine: says the prompt's own tokens back, at an exact cadence, computing nothing.

Its latencies are known beforehand, so it is what the harness is calibrated against, and what the
server's own cost is measured with. Token k of a request is due at an absolute time
(start + ttft + k * itl), so nothing drifts: a late step is followed by an early one.

    python -m enginebench_openai.echo --model smollm2-135m --itl-ms 5
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from enginebench.errors import UsageError
from enginebench.types import Option, OptionValue
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput
from enginebench_openai.server import serve_main

if TYPE_CHECKING:
    from enginebench_models import Model

__all__ = ["OPTIONS", "EchoEngine", "main", "make_engine"]

DEFAULT_CONTEXT: Final = 131072
OPTIONS: Final[Sequence[Option]] = (
    Option("ttft_ms", float, 5.0, "time to the first token in milliseconds"),
    Option("itl_ms", float, 5.0, "time between tokens in milliseconds; 0: as fast as it goes"),
    Option("max_batch", int, None, "requests that run at once, others wait (None: all)"),
    Option("context_length", int, None, "prompt and output together (None: as the model says)"),
)


class _Stream:
    """One request under way: `started` is when its clock began, `emitted` counts its tokens."""

    __slots__ = ("emitted", "request", "started", "tokens")

    def __init__(self, request: GenerationRequest, tokens: tuple[int, ...], started: float) -> None:
        self.request, self.tokens, self.started = request, tokens, started
        self.emitted = 0

    def take(self, count: int) -> tuple[int, ...]:
        tokens, first = self.tokens, self.emitted
        self.emitted = first + count
        return tuple(tokens[at % len(tokens)] for at in range(first, first + count))


class EchoEngine:
    """A TimedEngine. `hidden` are token ids never said (they would show no text), `filler` is said
    when a prompt holds nothing else. `clock` is in seconds and never goes back.
    """

    def __init__(
        self,
        *,
        ttft_ms: float = 0.0,
        itl_ms: float = 0.0,
        max_batch: int | None = None,
        context_length: int = DEFAULT_CONTEXT,
        hidden: Collection[int] = (),
        filler: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        _check("ttft_ms", ttft_ms, 0)
        _check("itl_ms", itl_ms, 0)
        _check("max_batch", max_batch, 1)
        _check("context_length", context_length, 2)
        self.context_length = context_length
        self.features = frozenset({Feature.MIN_TOKENS})  # nothing that it says is an end
        self._ttft_s, self._itl_s = ttft_ms / 1e3, itl_ms / 1e3
        self.slots = self._max_batch = max_batch
        self._hidden, self._filler = frozenset(hidden), filler
        self._clock = clock
        self._running: dict[str, _Stream] = {}
        self._waiting: dict[str, tuple[GenerationRequest, float]] = {}
        self._due: list[tuple[float, int, _Stream]] = []  # heap; entries of aborted streams stay
        self._entries = self._prompt_tokens = self._generated_tokens = 0

    def add(self, request: GenerationRequest) -> None:
        """Start the request's clock, or queue it when `max_batch` are running."""
        self._prompt_tokens += len(request.prompt)
        if self._max_batch is not None and len(self._running) >= self._max_batch:
            self._waiting[request.request_id] = (request, self._clock())
        else:
            self._start(request, self._clock())

    def abort(self, request_id: str) -> None:
        """Forget it; its slot is free from now on."""
        if self._waiting.pop(request_id, None) is not None:
            return
        if self._running.pop(request_id, None) is not None:
            self._start_waiting(self._clock())

    def has_work(self) -> bool:
        """Whether a token will ever be due."""
        return bool(self._running)

    def due_in_s(self) -> float:
        """Time until the next token is due."""
        self._drop_aborted()
        return max(0.0, self._due[0][0] - self._clock())

    def step(self) -> Sequence[TokenOutput]:
        """Every token that is due by now; several for a stream that was not asked for a while."""
        now = self._clock()
        outputs, due = [], []
        while self._due and self._due[0][0] <= now:
            due.append(heappop(self._due))
        for at, _, stream in due:
            if self._running.get(stream.request.request_id) is stream:
                outputs.append(self._advance(stream, at, now))
        return outputs

    def stats(self) -> EngineStats:
        """Counters; there is no cache to tell about."""
        return EngineStats(
            running_requests=len(self._running),
            waiting_requests=len(self._waiting),
            prompt_tokens_total=self._prompt_tokens,
            generated_tokens_total=self._generated_tokens,
        )

    def close(self) -> None:
        """Nothing is held."""

    def _start(self, request: GenerationRequest, started: float) -> None:
        said = tuple(token for token in request.prompt if token not in self._hidden)
        stream = _Stream(request, said or (self._filler,), started)
        self._running[request.request_id] = stream
        self._schedule(stream, started + self._ttft_s)

    def _schedule(self, stream: _Stream, at: float) -> None:
        self._entries += 1  # streams due together leave in order of scheduling
        heappush(self._due, (at, self._entries, stream))

    def _advance(self, stream: _Stream, at: float, now: float) -> TokenOutput:
        request, itl_s = stream.request, self._itl_s
        count = int((now - at) / itl_s) + 1 if itl_s else 1
        count = min(count, request.max_tokens - stream.emitted)
        self._generated_tokens += count
        tokens = stream.take(count)
        if stream.emitted < request.max_tokens:
            self._schedule(stream, stream.started + self._ttft_s + stream.emitted * itl_s)
            return TokenOutput(request.request_id, tokens)
        del self._running[request.request_id]
        self._start_waiting(at + (count - 1) * itl_s)
        return TokenOutput(request.request_id, tokens, finish_reason="length")

    def _start_waiting(self, freed: float) -> None:
        """Give a slot that came free at `freed` to the request that has waited longest."""
        if self._waiting:
            request, arrived = self._waiting.pop(next(iter(self._waiting)))
            self._start(request, max(freed, arrived))

    def _drop_aborted(self) -> None:
        while self._running.get(self._due[0][2].request.request_id) is not self._due[0][2]:
            heappop(self._due)


def _check(option: str, value: float | None, least: int) -> None:
    if value is not None and not least <= value < float("inf"):
        raise UsageError(f"{option} must be {least} or more; got {value}")


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> EchoEngine:
    """An EchoEngine that speaks the model's vocabulary."""
    chosen = dict(options)
    chosen.setdefault("context_length", model.info.context_length or DEFAULT_CONTEXT)
    return EchoEngine(
        hidden=model.tokenizer.special_ids,
        filler=model.info.first_ordinary_token,
        **chosen,  # type: ignore[arg-type]  # parsed by the types in OPTIONS
    )


def main() -> None:
    """`python -m enginebench_openai.echo`."""
    serve_main(
        sys.argv[1:],
        description="Serve the echo engine: tokens at an exact cadence, nothing computed.",
        options=OPTIONS,
        make_engine=make_engine,
    )


if __name__ == "__main__":
    main()
