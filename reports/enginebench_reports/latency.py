"""How long users wait: TTFT, TPOT, ITL, end to end.

- TTFT: scheduled send to the first chunk that carries text; also from the actual send.
- TPOT: (end - first chunk) / (tokens - tokens in the first chunk), per request; never includes
  TTFT.
- ITL: gap between token-carrying chunks / tokens that arrived, counted once per token. A chunk
  without tokens (the rest of a character, say) lengthens the gap of the next one.
- chunk gap: gap between any two text chunks as it was, counted once per chunk.

Only successful measured requests count. Answers of one chunk have no TPOT and no ITL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from enginebench.types import MetricInfo
from enginebench_reports.measured import Bools, Floats, Ints, Measured
from enginebench_reports.percentiles import PERCENTS, percentiles
from enginebench_reports.sample_size import independent_samples, mean_streams

__all__ = ["COLUMNS", "Gaps", "latency", "token_gaps"]

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
        "samples",
        "neither",
        "Independent samples that the gaps of ITL are worth: streams that run together share each"
        " step of the engine, and a request can be slow as a whole",
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """Times between neighbouring chunks of one request: `tokens[i]` arrived after `seconds[i]`.

    Gaps of a request stand together; `sizes` says how many each request has that has any.
    """

    seconds: Floats
    tokens: Ints
    sizes: Ints

    @classmethod
    def between(cls, measured: Measured, chosen: Bools) -> Self:
        """Between the chosen chunks; the others are as if they had not come."""
        everything = bool(chosen.all())
        counts = measured.chunk_counts if everything else measured.sums(chosen.astype(np.int64))
        counts = counts[counts > 0]
        times = measured.chunk_ns if everything else measured.chunk_ns[chosen]
        tokens = measured.chunk_tokens if everything else measured.chunk_tokens[chosen]
        to_the_next_request = np.cumsum(counts)[:-1] - 1
        seconds = np.delete(np.diff(times), to_the_next_request) * NS
        return cls(seconds, np.delete(tokens[1:], to_the_next_request), counts[counts > 1] - 1)


def latency(measured: Measured) -> Mapping[str, float | None]:
    """All of COLUMNS."""
    streams = mean_streams(measured)
    chunks = Gaps.between(measured, np.ones(len(measured.chunk_ns), bool))
    bearing = measured.chunk_tokens > 0
    tokens = chunks if bearing.all() else Gaps.between(measured, bearing)
    per_token = tokens.seconds / tokens.tokens
    itl_samples = independent_samples(per_token, tokens.sizes, streams)
    chunk_samples = independent_samples(chunks.seconds, chunks.sizes, streams)
    found = {name: percentiles(values) for name, values in _per_request(measured)}
    found["itl_s"] = percentiles(np.repeat(per_token, tokens.tokens), samples=itl_samples)
    found["chunk_gap_s"] = percentiles(chunks.seconds, samples=chunk_samples)
    figures: dict[str, float | None] = {
        f"{name}_p{percent}": value
        for name in MEANINGS
        for percent, value in zip(PERCENTS, found[name], strict=True)
    }
    return figures | {"itl_samples": itl_samples}


def token_gaps(measured: Measured) -> Floats:
    """ITL in seconds, once for each token, as `itl_s` counts it."""
    gaps = Gaps.between(measured, measured.chunk_tokens > 0)
    return np.repeat(gaps.seconds / gaps.tokens, gaps.tokens)


def _per_request(measured: Measured) -> Iterator[tuple[str, Floats]]:
    """The latencies of which a request has one; those that delivered no text only have `e2e_s`."""
    answered = measured.answered
    first, end = measured.first_ns[answered], measured.end_ns[answered]
    yield "ttft_s", (first - measured.scheduled_ns[answered]) * NS
    yield "ttft_from_send_s", (first - measured.sent_ns[answered]) * NS
    later = measured.tokens[answered] - measured.first_tokens[answered]
    several = later > 0
    yield "tpot_s", (end - first)[several] * NS / later[several]
    yield "e2e_s", (measured.end_ns - measured.scheduled_ns) * NS
