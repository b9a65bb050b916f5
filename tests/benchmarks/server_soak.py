"""A server at saturation for a long time, badly treated: what does it lose, and what does it keep?

    python tests/benchmarks/server_soak.py --engine paged --minutes 30

`--clients` loops ask for completions and chats, streamed and whole, and at random leave in the
middle, stop reading, send half a request, malformed JSON, too much, or more than the context holds.
The queue is short, so that some are refused; the request timeout too, so that some run out of it.
Once a second the server's resident memory, open files, KV blocks and requests in flight are noted.

At the end, when all clients have gone, nothing may be in flight and a good request must answer;
memory's slope over the second half of the time and what the rest held at the end are printed. Ends
with code 1 where a request hung, a 500 was answered, or something was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from server_process import RunningServer, running_server

LIMIT_S = 60.0  # an answer that takes longer counts as stuck
SETTLE_S = 20.0
LIMITS = ("--request-timeout", "1", "--max-queue", "12", "--max-body-mib", "0.1")
GREATEST_SLOPE = 2.0  # MiB a minute, over the second half


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment."""

    at_s: float
    rss_mib: float
    files: int
    threads: int
    in_flight: float
    kv_blocks_used: float


@dataclass(slots=True)
class Soak:
    """What happened so far."""

    host: str
    port: int
    model: str
    rng: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def body(self, **more: Any) -> bytes:
        """A request like many others."""
        words = " ".join(str(self.rng.randrange(1000)) for _ in range(self.rng.randrange(1, 12)))
        asked = {"model": self.model, "prompt": words, "max_tokens": self.rng.randrange(1, 40)}
        return json.dumps(asked | more).encode()


Treatment = Callable[[Soak, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def head(length: int, path: str = "/v1/completions") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


async def answered(soak: Soak, reader: asyncio.StreamReader, writer: Any, raw: bytes) -> None:
    """Send and read to the end of the connection's answer."""
    sent = raw.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n", 1)
    writer.write(sent)
    answer = await reader.read()
    status = answer[9:12].decode() or "hung up"
    soak.outcomes[status] += 1
    if status == "500":
        soak.faults.append(answer[:500].decode("utf-8", "replace"))


async def whole(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body()
    await answered(soak, reader, writer, head(len(raw)) + raw)


async def streamed(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(stream=True, stop="zq")
    await answered(soak, reader, writer, head(len(raw)) + raw)


async def several(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(prompt=["a b", "c d", "e"], stream=True)
    await answered(soak, reader, writer, head(len(raw)) + raw)


async def chat(soak: Soak, reader: Any, writer: Any) -> None:
    messages = [{"role": "user", "content": "Count from one to ten."}]
    raw = json.dumps({"model": soak.model, "messages": messages, "max_tokens": 20}).encode()
    await answered(soak, reader, writer, head(len(raw), "/v1/chat/completions") + raw)


async def leaves_in_the_middle(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(stream=True, max_tokens=60, ignore_eos=True)
    writer.write(head(len(raw)) + raw)
    await reader.read(soak.rng.randrange(1, 2000))
    writer.transport.abort()
    soak.outcomes["left"] += 1


async def leaves_at_once(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body()
    writer.write(head(len(raw)) + raw)
    await asyncio.sleep(soak.rng.random() * 0.05)
    writer.transport.abort()
    soak.outcomes["left at once"] += 1


async def stops_reading(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(stream=True, max_tokens=60, ignore_eos=True)
    writer.write(head(len(raw)) + raw)
    await asyncio.sleep(soak.rng.random() * 3)
    soak.outcomes["did not read"] += 1


async def half_a_request(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body()
    writer.write((head(len(raw)) + raw)[: soak.rng.randrange(5, 60 + len(raw))])
    await asyncio.sleep(soak.rng.random() * 0.1)
    soak.outcomes["half a request"] += 1


async def malformed(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.rng.choice(
        [b"{", b'{"model":1}', b"[" * 5000, soak.body(top_p=7), soak.body(prompt="\ud800")]
    )
    await answered(soak, reader, writer, head(len(raw)) + raw)


async def too_much(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(prompt="a " * 60_000)
    await answered(soak, reader, writer, head(len(raw)) + raw)


async def runs_out_of_time(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(max_tokens=400, ignore_eos=True)
    await answered(soak, reader, writer, head(len(raw)) + raw)


async def too_long(soak: Soak, reader: Any, writer: Any) -> None:
    raw = soak.body(max_tokens=10**6)
    await answered(soak, reader, writer, head(len(raw)) + raw)


GOOD: Sequence[Treatment] = (whole, streamed, several, chat)
BAD: Sequence[Treatment] = (
    leaves_in_the_middle,
    leaves_at_once,
    stops_reading,
    half_a_request,
    malformed,
    too_much,
    too_long,
    runs_out_of_time,
)


async def client(soak: Soak, until_s: float) -> None:
    """One after the other until the time is up."""
    while time.monotonic() < until_s:
        treat = soak.rng.choice(soak.rng.choice([GOOD, GOOD, BAD]))
        try:
            reader, writer = await asyncio.open_connection(soak.host, soak.port)
            try:
                async with asyncio.timeout(LIMIT_S):
                    await treat(soak, reader, writer)
            finally:
                writer.transport.abort()
        except TimeoutError:
            soak.faults.append(f"{treat.__name__} got no answer in {LIMIT_S:g} s")
        except OSError:
            soak.outcomes["hung up"] += 1  # on a client that had not finished its request
        if soak.rng.random() < 0.05:
            await asyncio.sleep(soak.rng.random())


async def sample(soak: Soak, server: RunningServer, began: float) -> Sample:
    """Measure now."""
    reader, writer = await asyncio.open_connection(soak.host, soak.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
    writer.close()
    found = {
        one.name: one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if not one.labels
    }
    family = server.family()
    return Sample(
        at_s=time.monotonic() - began,
        rss_mib=server.rss_bytes() / 2**20,
        files=sum(one.num_fds() for one in family),
        threads=sum(one.num_threads() for one in family),
        in_flight=found["enginebench:requests_in_flight"],
        kv_blocks_used=found.get("enginebench:kv_blocks_used", 0.0),
    )


async def watch(soak: Soak, server: RunningServer, began: float) -> None:
    while True:
        soak.samples.append(await sample(soak, server, began))
        await asyncio.sleep(1)


async def soak_server(soak: Soak, server: RunningServer, clients: int, seconds: float) -> Sample:
    """Treat it badly, let it settle, ask it something good; how it was at the end."""
    began = time.monotonic()
    watcher = asyncio.create_task(watch(soak, server, began))
    await asyncio.gather(*(client(soak, began + seconds) for _ in range(clients)))
    watcher.cancel()
    deadline = time.monotonic() + SETTLE_S
    last = await sample(soak, server, began)
    while (last.in_flight or last.kv_blocks_used) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        last = await sample(soak, server, began)
    if last.in_flight:
        soak.faults.append(f"{last.in_flight:g} requests are in flight though all have left")
    if last.kv_blocks_used:
        soak.faults.append(f"{last.kv_blocks_used:g} KV blocks are held though all have left")
    before = soak.outcomes["200"]
    raw = soak.body(max_tokens=1)  # within the time limit on any machine
    connection = await asyncio.open_connection(soak.host, soak.port)
    await answered(soak, *connection, head(len(raw)) + raw)
    if soak.outcomes["200"] == before:
        soak.faults.append("a good request was not answered at the end")
    return last


def slope_mib_per_minute(samples: Sequence[Sample]) -> float:
    """Of resident memory over the second half, when everything has been used once."""
    half = samples[len(samples) // 2 :]
    if len(half) < 3:
        return 0.0
    return linear_regression([one.at_s / 60 for one in half], [one.rss_mib for one in half]).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("echo", "paged", "quant"), default="paged")
    parser.add_argument("--model", default="synthetic:tiny")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with running_server(arguments.engine, ["--model", arguments.model, *LIMITS]) as server:
        url = urlsplit(server.url)
        assert url.hostname and url.port
        soak = Soak(url.hostname, url.port, arguments.model, random.Random(arguments.seed))
        last = asyncio.run(soak_server(soak, server, arguments.clients, arguments.minutes * 60))
    first, slope = soak.samples[0], slope_mib_per_minute(soak.samples)
    middle = soak.samples[len(soak.samples) // 2]
    if slope > GREATEST_SLOPE and arguments.minutes >= 5:
        soak.faults.append(f"memory grows by {slope:.2f} MiB a minute")
    shown = ", ".join(f"{name}: {count:,}" for name, count in soak.outcomes.most_common())
    print(
        f"{arguments.engine}, {arguments.minutes:g} minutes, {arguments.clients} clients: {shown}"
    )
    print(
        f"memory MiB: {first.rss_mib:.0f} at first, {middle.rss_mib:.0f} in the middle, "
        f"{last.rss_mib:.0f} at the end; slope of the second half {slope:+.2f} MiB a minute"
    )
    print(
        f"open files {first.files} -> {last.files}, threads {first.threads} -> {last.threads}, "
        f"KV blocks {first.kv_blocks_used:g} -> {last.kv_blocks_used:g}, "
        f"in flight at the end {last.in_flight:g}"
    )
    for fault in soak.faults[:20]:
        print("FAULT:", fault)
    if soak.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
