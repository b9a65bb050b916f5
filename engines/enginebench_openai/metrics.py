"""What /metrics tells: the engine's own counters, and requests, tokens and latencies as served.

Names start with `enginebench:`. Per token only plain Python numbers are touched; the Prometheus
families are made when somebody asks. All of it belongs to the event loop's thread.

    enginebench:requests_running, requests_waiting              gauges, from the engine
    enginebench:prompt_tokens_total, generation_tokens_total    counters, from the engine
    enginebench:kv_blocks, kv_blocks_used                       gauges, where there is a block cache
    enginebench:kv_slots_held, kv_slots_filled                  gauges, where there is a block cache
    enginebench:prefix_cache_queried_tokens_total, prefix_cache_hit_tokens_total, preemptions_total
    enginebench:draft_tokens_total, accepted_draft_tokens_total   where tokens are guessed ahead
    enginebench:requests_in_flight                 gauge: taken in, not ended
    enginebench:requests_refused_total             the queue was full (429)
    enginebench:queue_seconds                      histogram: request read to handed to the engine
    enginebench:model_loaded{model}                gauge: 1 while its engine takes requests
    enginebench:model_memory_bytes{model}          gauge: what it takes while it is loaded
    enginebench:model_load_seconds{model}          summary: an engine built; restarts too
    enginebench:model_switch_seconds               summary: a request for a model that was not
                                                   loaded to ready, what had to leave included
    enginebench:engine_restarts_total{model}       engines that died and were built again
    enginebench:requests_finished_total{reason}    stop, length, error, abort (the client left)
    enginebench:http_errors_total{status}          answers of 400 and above
    enginebench:time_to_first_token_seconds        histogram: request read to first token
    enginebench:inter_token_latency_seconds        histogram: gap / tokens, once per token
    enginebench:request_seconds                    histogram: request read to last token
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from enginebench_openai.engine_counts import EngineCounts
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation
from enginebench_openai.protocol import EngineStats

__all__ = ["Histogram", "ServerMetrics"]

TTFT_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ITL_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
REQUEST_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Histogram:
    """Counts per bucket; `bounds` are inclusive upper ends, everything above falls into +Inf."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def family(self, name: str, help_text: str) -> HistogramMetricFamily:
        """The Prometheus form, with cumulative buckets."""
        ends = [*map(str, map(float, self.bounds)), "+Inf"]
        buckets = list(zip(ends, accumulate(self.counts), strict=True))
        return HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=self.total)


class ServerMetrics(Collector):
    """Counts of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.engines = EngineCounts()
        self.model_bytes: Callable[[], Mapping[str, int | None]] = dict  # None: not loaded
        self.http_errors: Counter[int] = Counter()
        self.restarts: Counter[str] = Counter()
        self.refused = 0
        self._load_s: dict[str, tuple[int, float]] = {}  # how often, and seconds together
        self._switches, self._switch_s = 0, 0.0
        self._queue = Histogram(TTFT_BOUNDS_S)
        self._finished: Counter[str] = Counter()
        self._in_flight = 0
        self._ttft = Histogram(TTFT_BOUNDS_S)
        self._itl = Histogram(ITL_BOUNDS_S)
        self._request = Histogram(REQUEST_BOUNDS_S)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def started(self, flight: Flight) -> None:
        """A flight went to the engine."""
        self._in_flight += len(flight.generations)

    def left_queue(self, waited_s: float) -> None:
        """A generation went to the engine, so long after its request was read."""
        self._queue.observe(waited_s)

    def loaded(self, model: str, load_s: float) -> None:
        """An engine was built."""
        count, total_s = self._load_s.get(model, (0, 0.0))
        self._load_s[model] = (count + 1, total_s + load_s)

    def switched(self, waited_s: float) -> None:
        """A model was loaded for a request that had to wait for it."""
        self._switches += 1
        self._switch_s += waited_s

    def abandoned(self, generations: int) -> None:
        """A client left while so many of its generations had not ended."""
        self._in_flight -= generations
        self._finished["abort"] += generations

    def tokens(self, flight: Flight, generation: Generation, count: int, now: float) -> None:
        """`count` tokens arrived for a generation (0 is allowed and means nothing)."""
        if not count:
            return
        if generation.first_token_at is None:
            generation.first_token_at = now
            self._ttft.observe(now - flight.arrived_at)
        else:
            self._itl.observe((now - generation.last_token_at) / count, count)
        generation.last_token_at = now

    def finished(self, flight: Flight, generation: Generation, now: float) -> None:
        """A generation ended by itself."""
        self._in_flight -= 1
        self._finished[generation.finish_reason or "error"] += 1
        if generation.error is None:
            self._request.observe(now - flight.arrived_at)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        stats = self.engines.stats()
        if stats is not None:
            yield from _engine_families(stats)
        yield GaugeMetricFamily(
            "enginebench:requests_in_flight", "Generations not ended yet", self._in_flight
        )
        yield _by_label(
            "enginebench:requests_finished", "Generations ended", "reason", self._finished
        )
        yield _by_label(
            "enginebench:http_errors", "Answers of status 400 and above", "status", self.http_errors
        )
        yield CounterMetricFamily(
            "enginebench:requests_refused", "Generations refused by a full queue", self.refused
        )
        yield from self._model_families()
        yield self._queue.family(
            "enginebench:queue_seconds", "From request read to handed to the engine"
        )
        yield self._ttft.family(
            "enginebench:time_to_first_token_seconds", "From request read to first token"
        )
        yield self._itl.family(
            "enginebench:inter_token_latency_seconds", "Gap between deliveries over their tokens"
        )
        yield self._request.family(
            "enginebench:request_seconds", "From request read to the last token"
        )

    def _model_families(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "enginebench:model_loaded",
            "1 while the model's engine takes requests",
            labels=["model"],
        )
        loads = SummaryMetricFamily(
            "enginebench:model_load_seconds", "Building a model's engine", labels=["model"]
        )
        memory = GaugeMetricFamily(
            "enginebench:model_memory_bytes",
            "Memory of the engine's process and devices; where it has none, of its weights",
            labels=["model"],
        )
        for model, size_bytes in self.model_bytes().items():
            loaded.add_metric([model], int(size_bytes is not None))
            if size_bytes is not None:
                memory.add_metric([model], size_bytes)
        for model, (count, total_s) in self._load_s.items():
            loads.add_metric([model], count_value=count, sum_value=total_s)
        yield from (loaded, memory, loads)
        yield SummaryMetricFamily(
            "enginebench:model_switch_seconds",
            "From a request for a model that was not loaded to ready",
            count_value=self._switches,
            sum_value=self._switch_s,
        )
        yield _by_label("enginebench:engine_restarts", "Engines restarted", "model", self.restarts)


def _engine_families(stats: EngineStats) -> Iterator[Metric]:
    gauges = {
        "requests_running": ("Requests that the engine works on", stats.running_requests),
        "requests_waiting": ("Requests queued in the engine", stats.waiting_requests),
        "kv_blocks": ("KV cache blocks", stats.kv_blocks_total),
        "kv_blocks_used": ("KV cache blocks in use", stats.kv_blocks_used),
        "kv_slots_held": (
            "Tokens that blocks of running requests have room for, a shared block once for each",
            stats.kv_slots_held,
        ),
        "kv_slots_filled": ("Those of them that hold keys and values", stats.kv_slots_filled),
    }
    counters = {
        "prompt_tokens": ("Prompt tokens taken in", stats.prompt_tokens_total),
        "generation_tokens": ("Tokens generated", stats.generated_tokens_total),
        "prefix_cache_queried_tokens": (
            "Prompt tokens looked up in the prefix cache",
            stats.prefix_cache_queried_tokens_total,
        ),
        "prefix_cache_hit_tokens": (
            "Prompt tokens found in the prefix cache",
            stats.prefix_cache_hit_tokens_total,
        ),
        "preemptions": ("Requests set back to free KV cache blocks", stats.preemptions_total),
        "draft_tokens": ("Tokens guessed ahead and verified", stats.draft_tokens_total),
        "accepted_draft_tokens": ("Guesses that were right", stats.accepted_draft_tokens_total),
    }
    for name, (help_text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"enginebench:{name}", help_text, value)
    for name, (help_text, value) in counters.items():
        if value is not None:
            yield CounterMetricFamily(f"enginebench:{name}", help_text, value)


def _by_label(
    name: str, help_text: str, label: str, counts: Counter[str] | Counter[int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for key, count in counts.items():
        family.add_metric([str(key)], count)
    return family
