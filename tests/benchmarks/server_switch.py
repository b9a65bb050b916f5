"""What it takes to switch models without a restart, from a client's side and by the server's count.

    python tests/benchmarks/server_switch.py --engine quant --model a.gguf --model b.gguf

Asks for the models in turn, so that each request has to load its model, and then for the same one
twice; the difference of the two is what switching adds to an answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from urllib.parse import urlsplit

from server_process import MODULES, running_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=sorted(MODULES), default="quant")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    models = arguments.model
    if len(models) < 2:
        parser.error("give --model twice or more")
    flags = [word for model in models for word in ("--model", model)]
    with running_server(arguments.engine, flags) as server:
        url = urlsplit(server.url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=600)

        def ask(model: str) -> float:
            body = json.dumps({"model": model, "prompt": "Once upon", "max_tokens": 1})
            began = time.perf_counter()
            connection.request("POST", "/v1/completions", body)
            answer = connection.getresponse()
            raw = answer.read()
            assert answer.status == 200, raw
            return time.perf_counter() - began

        ask(models[0])
        switching, staying = [], []
        for turn in range(1, arguments.rounds * len(models) + 1):
            switching.append(ask(models[turn % len(models)]))
            staying.append(ask(models[turn % len(models)]))
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
    told = dict(
        line.rsplit(" ", 1)
        for line in metrics.splitlines()
        if line.startswith("enginebench:model_switch_seconds_")
    )
    count = float(told["enginebench:model_switch_seconds_count"])
    mean_s = float(told["enginebench:model_switch_seconds_sum"]) / count
    print(f"one token, model loaded:   median {statistics.median(staying):.3f} s")
    print(f"one token, after a switch: median {statistics.median(switching):.3f} s")
    print(f"the server's own count:    mean {mean_s:.3f} s over {count:g} switches")


if __name__ == "__main__":
    main()
