"""How long the GPU stands idle while `paged` serves many streams through HTTP.

    python tests/benchmarks/paged_idle_gpu.py --model synthetic:qwen2.5-3b --streams 256

A server like any other, but for one thing: when all streams have been decoding for a while, its
engine's process records with torch.profiler (CUPTI) what runs on the GPU, `--records` times for
`--seconds` each. `--streams` loops ask for completions through HTTP meanwhile.

Printed for each record: the share of time in which no kernel, copy or fill ran, cut by the length
of the gaps. Gaps inside a step are those between kernels of a graph, of one microsecond or two each
(recording stops kernels from starting early, so there are more of them than without it); a gap of
`LONG_US` or more is the GPU waiting for the host. Then the tokens a second that came while nothing
was recorded and while something was: how much recording disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from enginebench.types import OptionValue
from enginebench_models import Model, open_model
from enginebench_openai import TokenEngine, serve_main
from enginebench_openai.protocol import TokenOutput

LONG_US = 20.0
BOUNDS_US = (2.0, 5.0, LONG_US, 100.0, 1000.0)
SETTLE_S = 5.0  # of decoding at full load before the first record
PAUSE_S = 3.0
MARK = "idle-record "


@dataclass(frozen=True, slots=True)
class Record:
    """What the GPU did between the first and the last thing recorded."""

    seconds: float
    events: int
    steps: int
    gaps_us: Mapping[str, float]  # by upper bound of their length: idle microseconds
    longest_us: float
    tokens_per_s: float
    before_long: Sequence[tuple[str, int]]  # what ran before the long gaps, most frequent first

    @property
    def idle(self) -> float:
        """Share of the time in which nothing ran."""
        return sum(self.gaps_us.values()) / self.seconds / 1e6

    @property
    def waiting(self) -> float:
        """Share of the time in gaps of `LONG_US` and more."""
        long = [us for bound, us in self.gaps_us.items() if float(bound) > LONG_US]
        return sum(long) / self.seconds / 1e6

    def __str__(self) -> str:
        parts = ", ".join(
            f"<{float(bound):g} us {us / self.seconds / 1e4:.2f}%"
            for bound, us in self.gaps_us.items()
        )
        return (
            f"idle {self.idle:.2%} of {self.seconds:.2f} s, {self.waiting:.2%} waiting for the host"
            f" (gaps of {LONG_US:g} us and more, the longest {self.longest_us:.0f} us)\n"
            f"  by gap: {parts}\n  {self.steps} steps, {self.events} kernels and copies,"
            f" {self.tokens_per_s:,.0f} tokens/s; before long gaps: {list(self.before_long)}"
        )


def measured(
    spans_ns: Iterable[tuple[int, int, str]], *, steps: int, tokens_per_s: float
) -> Record:
    """From (start, end, name) of all that ran, which may overlap, in any order."""
    spans = sorted(spans_ns)
    assert spans, "nothing ran on the GPU while it was recorded"
    gaps = dict.fromkeys([f"{bound:g}" for bound in (*BOUNDS_US, float("inf"))], 0.0)
    before: dict[str, int] = {}
    longest, (first, busy_until, last) = 0.0, spans[0]
    for start, end, name in spans:
        gap_us = max(0.0, (start - busy_until) / 1e3)
        longest = max(longest, gap_us)
        gaps[next(bound for bound in gaps if gap_us < float(bound))] += gap_us
        if gap_us >= LONG_US:
            before[last] = before.get(last, 0) + 1
        if end > busy_until:
            busy_until, last = end, name
    often = sorted(before.items(), key=lambda item: -item[1])[:5]
    seconds = (busy_until - first) / 1e9
    return Record(seconds, len(spans), steps, gaps, longest, tokens_per_s, often)


# -------------------------------------------------------------------- in the engine's process


class Watch:
    """Records an engine that is at full load, from its own thread, between its steps."""

    def __init__(self, streams: int, seconds: float, records: int) -> None:
        self._streams, self._seconds, self._left = streams, seconds, records
        self._next_at: float | None = None  # when something starts or ends
        self._profile: object | None = None
        self._steps = self._tokens = 0

    def after_step(self, running: int, outputs: Sequence[TokenOutput]) -> None:
        """Call after each step."""
        now = time.perf_counter()
        self._steps += 1
        self._tokens += sum(len(output.token_ids) for output in outputs)
        if self._next_at is None:
            if running >= self._streams:
                self._next_at = now + SETTLE_S
                self._steps = self._tokens = 0
                self._began = now
        elif now >= self._next_at and self._left:
            self._stop(now) if self._profile is not None else self._start(now)

    def _rate(self, now: float) -> float:
        return self._tokens / (now - self._began)

    def _start(self, now: float) -> None:
        from torch.profiler import ProfilerActivity, profile

        print(f"{self._rate(now):,.0f} tokens/s, {self._steps} steps unrecorded", flush=True)
        self._profile = profile(activities=[ProfilerActivity.CUDA])
        self._profile.start()
        self._steps, self._tokens, self._began = 0, 0, time.perf_counter()
        self._next_at = self._began + self._seconds

    def _stop(self, now: float) -> None:
        from torch.autograd import DeviceType

        rate, steps = self._rate(now), self._steps
        assert self._profile is not None
        self._profile.stop()  # type: ignore[attr-defined]
        results = self._profile.profiler.kineto_results  # type: ignore[attr-defined]
        spans = [
            (event.start_ns(), event.start_ns() + event.duration_ns(), event.name()[:40])
            for event in results.events()
            if event.device_type() == DeviceType.CUDA and event.duration_ns() > 0
        ]
        record = measured(spans, steps=steps, tokens_per_s=rate)
        print(record, flush=True)
        self._profile, self._left = None, self._left - 1
        self._steps, self._tokens, self._began = 0, 0, time.perf_counter()
        self._next_at = self._began + PAUSE_S
        if not self._left:
            print(MARK + json.dumps({"idle": record.idle, "waiting": record.waiting}), flush=True)


def serve(streams: int, seconds: float, records: int, argv: Sequence[str]) -> None:
    """The server of `enginebench_paged.serve`, watched."""
    from enginebench_paged.options import OPTIONS

    def make_engine(model: Model, options: Mapping[str, OptionValue]) -> TokenEngine:
        from enginebench_paged.engine import PagedEngine

        class Watched(PagedEngine):
            def __init__(self) -> None:
                super().__init__(model, options)
                self._watch = Watch(streams, seconds, records)

            def step(self) -> Sequence[TokenOutput]:
                outputs = super().step()
                self._watch.after_step(self.stats().running_requests, outputs)
                return outputs

        return Watched()

    serve_main(argv, description="paged, watched", options=OPTIONS, make_engine=make_engine)


# -------------------------------------------------------------------- the clients


@dataclass(slots=True)
class Load:
    """Closed loops of requests for random tokens, until told to stop."""

    url: str
    model: str
    vocab_size: int
    input_tokens: int
    output_tokens: int
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def raw(self) -> bytes:
        """One request; the end of text does not end it."""
        body = {
            "model": self.model,
            "prompt": self._prompt(),
            "max_tokens": self.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        raw = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        return head.encode() + raw

    def _prompt(self) -> list[int]:
        return [
            self.rng.randrange(self.vocab_size // 8, self.vocab_size)
            for _ in range(self.input_tokens)
        ]

    async def loop(self) -> None:
        """One stream after the other."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 22)
        while True:
            writer.write(self.raw())
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answered {answer.decode()}")
            await reader.readuntil(b"\r\n0\r\n\r\n")


async def watch(argv: Sequence[str], load: Load, streams: int) -> None:
    """Print what the server prints, until the last record; ask of it once it is ready."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.TaskGroup() as clients:
            tasks = []
            while line := (await process.stdout.readline()).decode():
                if line.startswith(MARK):
                    break
                print(line.rstrip(), flush=True)
                if line.startswith("ready on"):
                    load.url = line.split()[2]
                    tasks = [clients.create_task(load.loop()) for _ in range(streams)]
            for task in tasks:
                task.cancel()
    finally:
        process.terminate()
        await process.wait()


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Other options go to the server."
    )
    parser.add_argument("--model", default="synthetic:qwen2.5-3b")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--records", type=int, default=3, help="the first warms CUPTI up")
    arguments, more = parser.parse_known_args()
    vocab_size = open_model(arguments.model).config.vocab_size
    load = Load("", arguments.model, vocab_size, arguments.input_tokens, arguments.output_tokens)
    own = [f"{arguments.streams}", f"{arguments.seconds}", f"{arguments.records}"]
    argv = [sys.executable, __file__, "serve", *own, "--model", arguments.model, "--port", "0"]
    asyncio.run(watch([*argv, *more], load, arguments.streams))


if __name__ == "__main__":
    main()
