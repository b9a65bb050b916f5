"""How long users wait: TTFT, TPOT, ITL, end to end.

- TTFT: scheduled send to the first chunk that carries text; also from the actual send.
- TPOT: (end - first chunk) / (tokens - tokens in the first chunk), per request; never includes
  TTFT.
- ITL: gap between token-carrying chunks / tokens that arrived, counted once per token.
- chunk gap: gap between any two text chunks as it was, counted once per chunk.

Only successful measured requests count. Answers of one chunk have no TPOT and no ITL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from enginebench.types import MetricInfo
from enginebench_reports.measured import Bools, Floats, Ints, Measured
from enginebench_reports.percentiles import PERCENTS, percentiles, weighted_percentiles

__all__ = ["COLUMNS", "latency", "token_gaps"]

NS = 1e-9
MEANINGS = {
    "ttft_s": "Time to first token, from the scheduled send to the first chunk that carries text",
    "ttft_from_send_s": "Time to first token counted from the actual send: without client queueing",
    "tpot_s": "Time per output token after the first chunk, mean of each request",
    "itl_s": "Inter-token latency: gap between chunks / tokens that arrived, counted per token",
    "chunk_gap_s": "Gap between chunks as they arrived, however many tokens each carried",
    "e2e_s": "Whole request, from the scheduled send to the end of the answer",
}
COLUMNS: Sequence[MetricInfo] = (
    *(
        MetricInfo(f"{name}_p{percent}", "s", "lower", f"{meaning}; {percent}th percentile")
        for name, meaning in MEANINGS.items()
        for percent in PERCENTS
    ),
    MetricInfo(
        "itl_samples",
        "steps",
        "neither",
        "Independent samples behind the ITL percentiles: gaps / mean number of streams at a time,"
        " since streams that run together share each step of the engine",
    ),
)


def latency(measured: Measured) -> Mapping[str, float | None]:
    """All of COLUMNS."""
    answered = measured.answered
    first, end = measured.first_ns[answered], measured.end_ns[answered]
    scheduled, sent = measured.scheduled_ns[answered], measured.sent_ns[answered]
    later = measured.tokens[answered] - measured.first_tokens[answered]
    several = later > 0
    samples = {
        "ttft_s": (first - scheduled) * NS,
        "ttft_from_send_s": (first - sent) * NS,
        "tpot_s": (end - first)[several] * NS / later[several],
        "chunk_gap_s": chunk_gaps(measured),
        "e2e_s": (measured.end_ns - measured.scheduled_ns) * NS,
    }
    figures: dict[str, float | None] = {}
    streams = mean_streams(measured)
    for name, values in samples.items():
        if name == "chunk_gap_s":
            ones = np.ones(len(values), np.int64)
            found = weighted_percentiles(values, ones, samples=len(values) / streams)
        else:
            found = percentiles(values)
        figures.update(_named(name, found))
    gaps, weights = token_gaps(measured)
    steps = len(gaps) / streams
    figures.update(_named("itl_s", weighted_percentiles(gaps, weights, samples=steps)))
    return figures | {"itl_samples": steps}


def token_gaps(measured: Measured) -> tuple[Floats, Ints]:
    """Seconds per token of each chunk after a request's first, and the tokens it carried.

    A chunk without tokens (the rest of a character, say) lengthens the gap of the next one.
    """
    bearing = measured.chunk_tokens > 0
    times, tokens = measured.chunk_ns[bearing], measured.chunk_tokens[bearing]
    same = _same_request(measured, bearing)
    weights = tokens[1:][same]
    return np.diff(times)[same] * NS / weights, weights


def chunk_gaps(measured: Measured) -> Floats:
    """Seconds between neighbouring chunks of a request."""
    everything = np.ones(len(measured.chunk_ns), bool)
    gaps: Floats = np.diff(measured.chunk_ns)[_same_request(measured, everything)] * NS
    return gaps


def mean_streams(measured: Measured) -> float:
    """How many answers were streaming at a time, on average while any could be; at least 1."""
    answered = measured.answered
    first, end = measured.first_ns[answered], measured.end_ns[answered]
    if len(first) == 0 or end.max() <= first.min():
        return 1.0
    return max(1.0, float((end - first).sum() / (end.max() - first.min())))


def _same_request(measured: Measured, chosen: Bools) -> Bools:
    """Of neighbouring chosen chunks, which pairs belong to one request."""
    owners = measured.chunk_owners()[chosen]
    same: Bools = owners[1:] == owners[:-1]
    return same


def _named(name: str, values: Sequence[float | None]) -> Iterator[tuple[str, float | None]]:
    for percent, value in zip(PERCENTS, values, strict=True):
        yield f"{name}_p{percent}", value
