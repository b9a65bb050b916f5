"""Thousands of malformed requests to a real server: never a 500, never a hang, and it stays well.

    python tests/benchmarks/server_fuzz.py --engine paged --requests 20000

The requests are those of tests/engines/openai/bad_requests.py: schemathesis on the server's own
OpenAPI document, and what documents do not say. After every hundredth a good request must answer.
The first request that is not answered well is shrunk to its smallest form and ends the script with
code 1. The same seed asks the same.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "engines" / "openai"))
from bad_requests import BadRequest, bad_requests, is_well_answered
from server_process import RunningServer, running_server

LIMIT_S = 30.0  # an answer that takes longer counts as a hang
GOOD_EVERY = 100


class Asker:
    """Sends requests one after the other over one connection, and remembers what came back."""

    def __init__(self, server: RunningServer, model: str) -> None:
        url = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=LIMIT_S)
        self._good = json.dumps({"model": model, "prompt": "abc", "max_tokens": 2}).encode()
        self.statuses: Counter[int] = Counter()
        self.asked, self.longest_s = 0, 0.0

    def document(self) -> dict:
        return json.loads(self._ask("GET", "/openapi.json", b"")[2])

    def ask(self, bad: BadRequest) -> None:
        """Fails unless the server answers as it should."""
        began = time.perf_counter()
        status, kind, body = self._ask(bad.method, bad.path, bad.body)
        self.longest_s = max(self.longest_s, time.perf_counter() - began)
        self.statuses[status] += 1
        self.asked += 1
        assert is_well_answered(status, kind, body), (status, body[:500])
        if self.asked % GOOD_EVERY == 0:
            self.expect_good()

    def expect_good(self) -> None:
        status, _, body = self._ask("POST", "/v1/completions", self._good)
        assert status == 200 and json.loads(body)["usage"]["completion_tokens"] <= 2

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        try:
            self._connection.request(method, path, body)
            answer = self._connection.getresponse()
            return answer.status, answer.headers.get("content-type", ""), answer.read()
        except BaseException:
            self._connection.close()
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("echo", "paged", "quant"), default="paged")
    parser.add_argument("--model", default="synthetic:tiny")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    context = "--context" if arguments.engine == "quant" else "--context-length"
    limits = ["--model", arguments.model, context, "64", "--request-timeout", "20"]
    with running_server(arguments.engine, limits) as server:
        asker = Asker(server, arguments.model)
        before, began = server.rss_bytes(), time.perf_counter()

        @settings(
            max_examples=arguments.requests,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @seed(arguments.seed)
        @given(bad_requests(asker.document(), arguments.model))
        def fuzz(bad: BadRequest) -> None:
            asker.ask(bad)

        fuzz()
        asker.expect_good()
        seconds, grown = time.perf_counter() - began, server.rss_bytes() - before
    shown = ", ".join(f"{status}: {count:,}" for status, count in sorted(asker.statuses.items()))
    print(f"{arguments.engine}: {asker.asked:,} requests in {seconds:.0f} s; {shown}")
    print(f"longest answer {asker.longest_s * 1e3:.0f} ms; memory grew by {grown / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
