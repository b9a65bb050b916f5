"""What structured output costs: TPOT with a JSON schema beside TPOT without, on a real server.

    python tests/benchmarks/structured_cost.py --engine quant --model smollm2-135m --streams 1,4

Both arms generate as many tokens from the same prompts; they take turns, so that whatever else the
machine does hits both alike. Beside TPOT stands the CPU time of the server's threads per token
(from the scheduler, Linux only), which says what the masks cost even where the machine is busy;
give the engine one thread then (`--threads 1`, `OMP_NUM_THREADS=1`), since waiting threads may
spin. The first request with the schema, whose grammar is compiled, is told apart. Not collected by
pytest: it measures, and asserts nothing.
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

import httpx
import psutil

SCHEMA = {
    "type": "array",
    "minItems": 500,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "people", "schema": SCHEMA}}


@contextmanager
def serving(engine: str, model: str, options: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """An engine's server: its URL and its process."""
    argv = [sys.executable, "-m", f"enginebench_{engine}.serve", "--model", model, "--port", "0"]
    argv += ["--served-model-name", "m", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = next((line for line in process.stdout if line.startswith("ready on")), None)
            if ready is None:
                raise SystemExit("the server ended before it was ready; see its words above")
            yield ready.split()[2], psutil.Process(process.pid)
        finally:
            process.terminate()


async def tpot_s(client: httpx.AsyncClient, tokens: int, structured: bool) -> float:
    """Of one request, from its first to its last chunk."""
    body = {
        "model": "m",
        "prompt": "A list of people as JSON:\n",
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"response_format": FORMAT} if structured else {"ignore_eos": True}),
    }
    first = last = 0.0
    said = 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                if chunk["choices"]:
                    last = time.perf_counter()
                    first = first or last
                elif chunk.get("usage"):
                    said = chunk["usage"]["completion_tokens"]
    return (last - first) / (said - 1)


def cpu_s(server: psutil.Process) -> float:
    """CPU time of all of its threads."""
    return sum(
        int((thread / "schedstat").read_text().split()[0]) / 1e9
        for process in (server, *server.children(recursive=True))
        for thread in Path(f"/proc/{process.pid}/task").iterdir()
    )


async def measure(url: str, server: psutil.Process, streams: int, tokens: int, rounds: int) -> None:
    """Rounds of both arms in turn."""
    arms: dict[bool, list[float]] = {False: [], True: []}
    spent = {False: 0.0, True: 0.0}
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        began = time.perf_counter()
        await tpot_s(client, 2, structured=True)
        compiled_s = time.perf_counter() - began
        await tpot_s(client, tokens, structured=False)
        for at in range(2 * rounds):
            structured = bool(at % 2)
            asked = (tpot_s(client, tokens, structured) for _ in range(streams))
            before = cpu_s(server)
            arms[structured] += await asyncio.gather(*asked)
            spent[structured] += cpu_s(server) - before
    plain, bound = (statistics.median(arms[arm]) * 1e3 for arm in (False, True))
    print(
        f"{streams:7} {plain:14.3f} {bound:14.3f} {(bound / plain - 1) * 100:+8.1f} %"
        f" {spent[False] / (rounds * streams * tokens) * 1e3:14.3f}"
        f" {(spent[True] / spent[False] - 1) * 100:+7.1f} % {compiled_s * 1e3:12.0f}",
        flush=True,
    )


def main() -> None:
    """Print a row for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=("paged", "quant"), default="quant")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--streams", default="1,4")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments, options = parser.parse_known_args()
    print("streams  TPOT plain, ms  with schema, ms     cost  CPU/token, ms     cost  first, ms")
    with serving(arguments.engine, arguments.model, options) as (url, server):
        for streams in map(int, arguments.streams.split(",")):
            asyncio.run(measure(url, server, streams, arguments.tokens, arguments.rounds))


if __name__ == "__main__":
    main()
