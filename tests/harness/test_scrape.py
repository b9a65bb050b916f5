"""A server's own metrics under common names, whatever it calls them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginebench import plugins
from enginebench.schemas import telemetry_schema
from enginebench.scrape import COMMON_NAMES, Scraper, figures_in
from enginebench.telemetry import Sampler
from enginebench.types import Endpoint, TellsMetrics
from enginebench_openai.link import EngineLink
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.protocol import EngineStats

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 100.0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 5.0
"""
LLAMACPP = """\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 6
"""
TGI = "tgi_queue_size 3\ntgi_batch_current_size 2\n"
SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 8.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="m"} 1.0
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="m"} 0.5
"""


def names_of(engine: str) -> Any:
    found = plugins.engines()[engine]
    assert isinstance(found, TellsMetrics)
    return found.server_metrics


@pytest.mark.parametrize(
    ("engine", "text", "expected"),
    [
        ("vllm", VLLM, (7, 2, 0.25, None, 1000, 100, 5)),
        ("llamacpp", LLAMACPP, (1, 6, None, None, None, None, None)),
        ("sglang", SGLANG, (8, 1, 0.5, None, None, None, None)),
        (
            "tgi",
            "tgi_queue_size 3\ntgi_batch_current_size 2\n",
            (2, 3, None, None, None, None, None),
        ),
    ],
)
def test_each_engine_has_its_names(
    engine: str, text: str, expected: tuple[float | None, ...]
) -> None:
    found = figures_in(text, names_of(engine))
    assert tuple(found.get(name) for name in COMMON_NAMES) == expected


def test_our_own_server_tells_all_of_them() -> None:
    metrics = ServerMetrics()
    link = SimpleNamespace(stats=EngineStats(3, 2, 0, 0, 100, 25, 64, 48, 1000, 100, 5))
    metrics.engines.begin("m", cast(EngineLink, link))
    text = metrics.render().decode()
    for engine in ("paged", "quant", "echo", "transformers"):
        found = figures_in(text, names_of(engine))
        assert [found[name] for name in COMMON_NAMES] == [3, 2, 0.25, 0.75, 1000, 100, 5]


def test_every_engine_uses_common_names_only() -> None:
    told = [
        each.server_metrics for each in plugins.engines().values() if isinstance(each, TellsMetrics)
    ]
    assert told and all(set(names) <= set(COMMON_NAMES) for names in told)
    assert set(COMMON_NAMES) <= set(telemetry_schema().names)


def test_a_ratio_of_nothing_is_no_figure() -> None:
    names = {"server_kv_used_share": ("a/b",)}
    assert figures_in("a 1\nb 0\n", names) == {}
    assert figures_in("a 1\n", names) == {}
    assert figures_in("a 1\nb 4\n", names) == {"server_kv_used_share": 0.25}


@settings(max_examples=30)
@given(st.text(max_size=80))
def test_what_is_no_metrics_raises_nothing(text: str) -> None:
    assert set(figures_in(text, {"server_running": ("up",)})) <= {"server_running"}


@contextmanager
def serving(text: str) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}", "m")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_readings_reach_the_samples_once_each() -> None:
    with serving(LLAMACPP) as endpoint, Sampler(interval_s=0.01) as sampler:
        with Scraper(endpoint, names_of("llamacpp"), interval_s=0.1) as scraper:
            sampler.watch_metrics(scraper)
            deadline = time.monotonic() + 10
            while sum("server_waiting" in each for each in list(sampler.samples)) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    read = [each for each in sampler.samples if "server_waiting" in each]
    assert {each["server_waiting"] for each in read} == {6.0}
    assert len(read) < len(sampler.samples)


def test_a_server_that_is_gone_leaves_nothing() -> None:
    with serving("") as endpoint:
        pass
    with Scraper(endpoint, names_of("vllm"), interval_s=0.01) as scraper:
        time.sleep(0.1)
        assert scraper.take() == {}
