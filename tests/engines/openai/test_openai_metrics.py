"""/metrics, /health and /version."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from enginebench import __version__
from enginebench_openai.metrics import Histogram


def scrape(http) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name.removeprefix("enginebench:"), str(sample.labels.get("reason", ""))): (
            sample.value
        )
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_a_request_shows_in_every_count(http):
    before = scrape(http)
    body = {"model": "fake", "prompt": "ab", "max_tokens": 5}
    assert http.post("/v1/completions", json=body).status_code == 200
    after = scrape(http)

    def grown(name: str, reason: str = "") -> float:
        return after[name, reason] - before.get((name, reason), 0)

    assert grown("requests_finished_total", "length") == 1
    assert grown("time_to_first_token_seconds_count") == 1
    assert grown("inter_token_latency_seconds_count") == 4
    assert grown("request_seconds_count") == 1
    assert grown("request_seconds_sum") > 0
    assert after["requests_in_flight", ""] == 0


def test_the_engine_tells_what_applies_to_it(http):
    found = scrape(http)
    assert found["kv_blocks", ""] == 8 and found["kv_blocks_used", ""] == 3
    assert ("preemptions_total", "") not in found


def test_histogram_buckets_are_cumulative_and_their_ends_inclusive():
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    histogram.observe(1.5, times=2)
    histogram.observe(9.0)
    (metric,) = [
        {sample.labels.get("le"): sample.value for sample in histogram.family("x", "").samples}
    ]
    assert (metric["1.0"], metric["2.0"], metric["+Inf"]) == (1, 3, 4)
    assert histogram.total == pytest.approx(13)


def test_health_and_version(http):
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/version").json() == {"version": __version__}
