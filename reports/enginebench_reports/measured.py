"""The measured requests of one cell as flat arrays: what every latency and rate is computed from.

Warm-up records are left out here, once, for all metrics; so are failed requests, which are counted
but have no latency. Chunks of all requests stand behind one another: request i owns
`chunk_ns[starts[i] : starts[i] + chunk_counts[i]]`. Nothing here knows a percentile or a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bools", "Floats", "Ints", "Measured", "phase"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

_COLUMNS = (
    *("phase", "error", "scheduled_ns", "sent_ns", "end_ns", "chunk_ns", "chunk_tokens"),
    *("prompt_tokens", "completion_tokens", "cached_prompt_tokens"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Successful measured requests (n of them), and how many measured requests failed.

    `tokens` is the length of each answer by the best count there is: the server's usage, else the
    sum over its chunks. Unknown prompt counts are NaN. `first_ns` is where a request that delivered
    no text has its `end_ns`; mask it with `chunk_counts > 0`.
    """

    failed: int
    scheduled_ns: Ints  # (n,)
    sent_ns: Ints  # (n,)
    first_ns: Ints  # (n,)
    end_ns: Ints  # (n,)
    tokens: Ints  # (n,)
    streamed_tokens: Ints  # (n,) by the counts of the chunks
    first_tokens: Ints  # (n,) tokens in the first chunk
    prompt_tokens: Floats  # (n,)
    cached_tokens: Floats  # (n,)
    chunk_counts: Ints  # (n,)
    chunk_ns: Ints  # (chunks,)
    chunk_tokens: Ints  # (chunks,)

    @classmethod
    def of(cls, records: pa.Table) -> Measured:
        """From a table with the columns of RequestRecord."""
        import pyarrow.compute as pc

        measured = phase(records.select(_COLUMNS), "measure")
        ok = measured
        if measured["error"].null_count < measured.num_rows:
            ok = measured.filter(pc.is_null(measured["error"]))
        counts = _ints(pc.list_value_length(ok["chunk_ns"]))
        chunk_ns = _ints(pc.list_flatten(ok["chunk_ns"]))
        chunk_tokens = _ints(pc.list_flatten(ok["chunk_tokens"]))
        end_ns = _ints(ok["end_ns"])
        streamed = _sums(chunk_tokens, counts)
        return cls(
            failed=measured.num_rows - ok.num_rows,
            scheduled_ns=_ints(ok["scheduled_ns"]),
            sent_ns=_ints(ok["sent_ns"]),
            first_ns=_first(chunk_ns, counts, default=end_ns),
            end_ns=end_ns,
            tokens=_answer_lengths(ok["completion_tokens"], streamed),
            streamed_tokens=streamed,
            first_tokens=_first(chunk_tokens, counts, default=np.zeros_like(end_ns)),
            prompt_tokens=_floats(ok["prompt_tokens"]),
            cached_tokens=_floats(ok["cached_prompt_tokens"]),
            chunk_counts=counts,
            chunk_ns=chunk_ns,
            chunk_tokens=chunk_tokens,
        )

    def __len__(self) -> int:
        return len(self.end_ns)

    @property
    def answered(self) -> Bools:
        """Which requests delivered any text."""
        return self.chunk_counts > 0

    def sums(self, of_chunks: Ints) -> Ints:
        """The sum of a figure of chunks over each request."""
        return _sums(of_chunks, self.chunk_counts)


def phase(records: pa.Table, name: str) -> pa.Table:
    """The records of a phase (`warmup`, `measure`); copied only where there are others too."""
    import pyarrow.compute as pc

    chosen = pc.equal(records["phase"], name)
    return records if pc.all(chosen, min_count=0).as_py() else records.filter(chosen)


def _first(values: Ints, counts: Ints, *, default: Ints) -> Ints:
    """The first of each request's `values`; `default` where a request has none."""
    starts = np.cumsum(counts) - counts
    has_any = counts > 0
    first = default.copy()
    first[has_any] = values[starts[has_any]]
    return first


def _sums(values: Ints, counts: Ints) -> Ints:
    ends = np.cumsum(counts)
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])
    sums: Ints = running[ends] - running[ends - counts]
    return sums


def _answer_lengths(usage: pa.ChunkedArray, streamed: Ints) -> Ints:
    counted = _floats(usage)
    return np.where(np.isnan(counted), streamed, np.nan_to_num(counted)).astype(np.int64)


def _ints(column: Any) -> Ints:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _floats(column: pa.ChunkedArray) -> Floats:
    """Nulls become NaN."""
    import pyarrow as pa

    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
