"""What the server itself costs: CPU per streamed token and added TTFT, measured with `echo`.

    python tests/benchmarks/server_cost.py --streams 1,16,256 --tokens 128 --itl-ms 20

Each row starts with a warm-up, then `--streams` connections stream completions side by side for
`--rounds` rounds. CPU is the time that the server's threads ran (from the scheduler, Linux only:
clock ticks misjudge threads that wake for microseconds), over the tokens that they streamed, and
apart for the engine's thread, which the echo engine wakes for each token of each stream by itself;
"chunks/token" below 1 means that tokens shared a chunk because the server fell behind. The added
TTFT comes from requests sent one at a time to an engine whose first token is due at once.

The client is a bare asyncio protocol that counts bytes, so that it needs little of the machine;
still, run it where at least two cores are free. Not collected by pytest: it measures, and asserts
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

MODEL = "synthetic:tiny"
PROMPT = "The quick brown fox jumps over the lazy dog. "
CHUNK = b'"text":'  # counted per read; one cut in two by a read is missed
END = b"0\r\n\r\n"  # the empty chunk that ends an answer


class Stream(asyncio.Protocol):
    """One connection: sends a request, counts chunks, notes when the first one came."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.chunks = 0
        self.tail = b""
        self.first_at = 0.0
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        count = data.count(CHUNK)
        if count and not self.chunks:
            self.first_at = time.perf_counter()
        self.chunks += count
        self.tail = (self.tail + data[-len(END) :])[-len(END) :]
        if self.tail == END and self.done is not None:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionError(f"the server hung up: {exc}"))

    async def request(self, raw: bytes) -> float:
        """Send and read to the end; the time to the first chunk in seconds."""
        assert self.transport is not None
        self.chunks, self.done = 0, asyncio.get_running_loop().create_future()
        sent = time.perf_counter()
        self.transport.write(raw)
        await self.done
        return self.first_at - sent


def http_request(tokens: int, usage: bool) -> bytes:
    body: dict[str, object] = {
        "model": MODEL,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
    }
    if usage:
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


@contextmanager
def echo_server(itl_ms: float, ttft_ms: float) -> Iterator[tuple[str, int, int]]:
    argv = [sys.executable, "-m", "enginebench_openai.echo", "--model", MODEL, "--port", "0"]
    argv += [f"--itl-ms={itl_ms}", f"--ttft-ms={ttft_ms}", "--context-length=100000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().split()[2])
        assert url.hostname and url.port
        try:
            yield url.hostname, url.port, process.pid
        finally:
            process.terminate()


async def connect(host: str, port: int, count: int) -> list[Stream]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Stream, host, port))[1] for _ in range(count)]


async def stream_cost(streams: int, arguments: argparse.Namespace) -> str:
    raw = http_request(arguments.tokens, arguments.usage)
    with echo_server(arguments.itl_ms, arguments.itl_ms) as (host, port, pid):
        connections = await connect(host, port, streams)
        await asyncio.gather(*(one.request(raw) for one in connections))
        chunks, (loop, all_) = 0, _cpu_s(pid)
        start = time.perf_counter()
        for _ in range(arguments.rounds):
            await asyncio.gather(*(one.request(raw) for one in connections))
            chunks += sum(one.chunks for one in connections)
        wall_s, (loop_after, all_after) = time.perf_counter() - start, _cpu_s(pid)
    loop_s, cpu_s = loop_after - loop, all_after - all_
    tokens = streams * arguments.rounds * arguments.tokens
    return (
        f"{streams:7d} {tokens / wall_s:12,.0f} {cpu_s / tokens * 1e6:15.1f} "
        f"{loop_s / tokens * 1e6:11.1f} {(cpu_s - loop_s) / tokens * 1e6:8.1f} "
        f"{chunks / tokens:13.2f} {cpu_s / wall_s * 100:12.0f}"
    )


async def added_ttft(requests: int) -> str:
    raw = http_request(2, False)
    with echo_server(0, 0) as (host, port, _):
        (one,) = await connect(host, port, 1)
        times_ms = [await one.request(raw) * 1e3 for _ in range(requests)][requests // 10 :]
    return f"p50 {statistics.median(times_ms):.2f} ms, p90 {_quantile(times_ms, 0.9):.2f} ms"


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _cpu_s(pid: int) -> tuple[float, float]:
    """Of the main thread, which the event loop has, and of all threads."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    spent = {
        int(thread.name): int((thread / "schedstat").read_text().split()[0]) / 1e9
        for thread in threads
    }
    return spent[pid], sum(spent.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--streams", default="1,16,256", help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=128, help="per stream and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--itl-ms", type=float, default=20.0)
    parser.add_argument("--usage", action="store_true", help="ask for usage in every chunk")
    arguments = parser.parse_args()
    loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        print("added TTFT, one at a time:", runner.run(added_ttft(400)), flush=True)
        print("streams     tokens/s    CPU us/token: its loop, engine  chunks/token  server CPU %")
        for streams in map(int, arguments.streams.split(",")):
            print(runner.run(stream_cost(streams, arguments)), flush=True)


if __name__ == "__main__":
    main()
