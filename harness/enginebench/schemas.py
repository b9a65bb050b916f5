"""The columns of a Run's parquet files, and how Python objects become rows of them.

`docs/run-folder.md` says what each column means and its unit. pyarrow is imported when a schema is
first asked for. Nothing here knows where files lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from enginebench.scrape import COMMON_NAMES
from enginebench.types import Message, Request, RequestRecord

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "record_columns",
    "records_schema",
    "records_table",
    "requests_schema",
    "requests_table",
    "telemetry_schema",
    "telemetry_table",
]


@cache
def records_schema() -> pa.Schema:
    """One row for each RequestRecord, columns named as its fields."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("request_index", pa.int64(), nullable=False),
            pa.field("user", pa.int32(), nullable=False),
            pa.field("phase", pa.string(), nullable=False),
            pa.field("scheduled_ns", pa.int64(), nullable=False),
            pa.field("sent_ns", pa.int64(), nullable=False),
            pa.field("end_ns", pa.int64(), nullable=False),
            pa.field("chunk_ns", pa.list_(pa.int64()), nullable=False),
            pa.field("chunk_tokens", pa.list_(pa.int32()), nullable=False),
            pa.field("token_count_source", pa.string()),
            pa.field("prompt_tokens", pa.int32()),
            pa.field("completion_tokens", pa.int32()),
            pa.field("cached_prompt_tokens", pa.int32()),
            pa.field("finish_reason", pa.string()),
            pa.field("http_status", pa.int32()),
            pa.field("error", pa.string()),
            pa.field("text", pa.string(), nullable=False),
        ]
    )


@cache
def requests_schema() -> pa.Schema:
    """One row for each Request; exactly one of the three prompt columns is set."""
    import pyarrow as pa

    message = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
    return pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("prompt_text", pa.string()),
            pa.field("prompt_tokens", pa.list_(pa.int32())),
            pa.field("prompt_messages", pa.list_(message)),
            pa.field("max_tokens", pa.int32(), nullable=False),
            pa.field("scheduled_s", pa.float64()),
            pa.field("body", pa.string(), nullable=False),
            pa.field("follows", pa.int64()),
            pa.field("think_s", pa.float64()),
        ]
    )


@cache
def telemetry_schema() -> pa.Schema:
    """One row for each sample; null where this machine or this server cannot tell."""
    import pyarrow as pa

    i64, f64 = pa.int64(), pa.float64()
    return pa.schema(
        [
            pa.field("t_ns", i64, nullable=False),
            pa.field("cpu_percent", f64),
            pa.field("cpu_s", f64),
            pa.field("rss_bytes", i64),
            pa.field("rss_anon_bytes", i64),
            pa.field("rss_file_bytes", i64),
            pa.field("pss_bytes", i64),
            pa.field("processes", pa.int32()),
            pa.field("threads", pa.int32()),
            pa.field("voluntary_switches", i64),
            pa.field("involuntary_switches", i64),
            *(pa.field(name, f64) for name in COMMON_NAMES),
            pa.field("client_cpu_percent", f64),
            pa.field("client_cpu_s", f64),
            pa.field("client_rss_bytes", i64),
            pa.field("machine_cpu_percent", f64),
            pa.field("machine_memory_available_bytes", i64),
            pa.field("gpu_memory_bytes", i64),
            pa.field("gpu_utilization_percent", f64),
            pa.field("gpu_power_w", f64),
            pa.field("gpu_energy_j", f64),
            pa.field("gpu_sm_clock_mhz", f64),
            pa.field("gpu_memory_clock_mhz", f64),
            pa.field("gpu_temperature_c", f64),
            pa.field("gpu_throttle_reasons", i64),
            pa.field("each_gpu_memory_bytes", pa.list_(i64)),
            pa.field("each_gpu_utilization_percent", pa.list_(f64)),
            pa.field("each_gpu_power_w", pa.list_(f64)),
        ]
    )


def record_columns() -> Sequence[str]:
    """The names of the records' columns, in order (without importing pyarrow)."""
    return RequestRecord.__match_args__


def records_table(records: Iterable[RequestRecord]) -> pa.Table:
    """Records as a table of `records_schema`."""
    import pyarrow as pa

    rows = list(records)
    columns = {name: [getattr(row, name) for row in rows] for name in record_columns()}
    return pa.table(columns, schema=records_schema())


def requests_table(requests: Iterable[Request]) -> pa.Table:
    """Requests as a table of `requests_schema`."""
    import pyarrow as pa

    return pa.Table.from_pylist([_request_row(each) for each in requests], requests_schema())


def telemetry_table(samples: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Samples (column name to value, absent ones are null) as a table of `telemetry_schema`."""
    import pyarrow as pa

    return pa.Table.from_pylist([dict(sample) for sample in samples], telemetry_schema())


def _request_row(request: Request) -> dict[str, Any]:
    row: dict[str, Any] = {
        "index": request.index,
        "max_tokens": request.max_tokens,
        "scheduled_s": request.scheduled_s,
        "body": msgspec.json.encode(request.body).decode(),
        "follows": request.follows,
        "think_s": request.think_s,
    }
    prompt = request.prompt
    if isinstance(prompt, str):
        row["prompt_text"] = prompt
    elif prompt and isinstance(prompt[0], Message):
        row["prompt_messages"] = [msgspec.to_builtins(message) for message in prompt]
    else:
        row["prompt_tokens"] = list(prompt)
    return row
