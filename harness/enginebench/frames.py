"""A ResultSet as tidy DataFrames: one row per cell, request, chunk or sample.

    frames = enginebench.load("runs/...").frames
    frames.requests.groupby("cell")["ttft_s"].median()

Rows of all tables start with `run` and `cell`, so that tables can be joined; times count in seconds
from the moment that the cell's first request was due. `docs/results.md` describes every column.
Warm-up requests are in here, marked by `phase`; metrics leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from enginebench.results import CellResult, ResultSet

__all__ = ["CHUNK_COLUMNS", "REQUEST_COLUMNS", "Frames"]

NS = 1e9
REQUEST_COLUMNS = (
    *("run", "cell", "label", "load", "request_index", "user", "phase"),
    *("scheduled_s", "sent_s", "first_chunk_s", "end_s", "ttft_s", "tpot_s", "e2e_s"),
    *("prompt_tokens", "output_tokens", "cached_prompt_tokens", "chunks", "token_count_source"),
    *("finish_reason", "http_status", "error", "text"),
)
CHUNK_COLUMNS = ("run", "cell", "request_index", "chunk", "t_s", "tokens", "gap_s")


@dataclass(frozen=True)
class Frames:
    """Each table is read and built when it is first asked for, from all cells."""

    results: ResultSet

    @cached_property
    def cells(self) -> pd.DataFrame:
        """What `ResultSet.to_pandas` gives: what was run, and every metric."""
        return self.results.to_pandas()

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request."""
        return _together(self.results.cells, _requests, REQUEST_COLUMNS)

    @cached_property
    def chunks(self) -> pd.DataFrame:
        """One row per chunk of text that arrived."""
        return _together(self.results.cells, _chunks, CHUNK_COLUMNS)

    @cached_property
    def telemetry(self) -> pd.DataFrame:
        """One row per sample: `t_s`, then the columns of `telemetry.parquet`."""
        from enginebench.schemas import telemetry_schema

        names = ("run", "cell", "t_s", *telemetry_schema().names)
        return _together(self.results.cells, _telemetry, names)


def _together(
    cells: Sequence[CellResult],
    build: Callable[[CellResult], pd.DataFrame],
    columns: Sequence[str],
) -> pd.DataFrame:
    import pandas as pd

    parts = [part for cell in cells if len(part := build(cell))]
    if not parts:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(parts, ignore_index=True)[list(columns)]


def _named(cell: CellResult) -> dict[str, Any]:
    return {"run": cell.run.folder.name, "cell": cell.cell.id}


def _start_ns(records: pa.Table) -> int:
    import pyarrow.compute as pc

    return int(pc.min(records["scheduled_ns"]).as_py() or 0)


def _requests(cell: CellResult) -> pd.DataFrame:
    import numpy as np

    records = cell.records
    frame: pd.DataFrame = records.drop_columns(["chunk_ns", "chunk_tokens"]).to_pandas()
    start_ns = _start_ns(records)
    for name in ("scheduled", "sent", "end"):
        frame[f"{name}_s"] = (frame[f"{name}_ns"] - start_ns) / NS
    chunks = _chunks(cell).groupby("request_index")
    index = frame["request_index"]
    frame["first_chunk_s"] = index.map(chunks["t_s"].first())
    frame["chunks"] = index.map(chunks.size()).fillna(0).astype(int)
    streamed = index.map(chunks["tokens"].sum()).fillna(0)
    frame["output_tokens"] = frame["completion_tokens"].fillna(streamed).astype(int)
    later = frame["output_tokens"] - index.map(chunks["tokens"].first())
    failed = frame["error"].notna()
    frame["ttft_s"] = (frame["first_chunk_s"] - frame["scheduled_s"]).mask(failed)
    streaming_s = frame["end_s"] - frame["first_chunk_s"]
    frame["tpot_s"] = (streaming_s / later.where(later > 0, np.nan)).mask(failed)
    frame["e2e_s"] = (frame["end_s"] - frame["scheduled_s"]).mask(failed)
    return frame.assign(**_named(cell), label=cell.cell.spec.label, load=str(cell.cell.load))


def _chunks(cell: CellResult) -> pd.DataFrame:
    """Chunks stand by request; `gap_s` of a request's first one is NaN."""
    import numpy as np
    import pandas as pd
    import pyarrow.compute as pc

    records = cell.records
    counts = pc.list_value_length(records["chunk_ns"]).to_numpy()
    times_s = (pc.list_flatten(records["chunk_ns"]).to_numpy() - _start_ns(records)) / NS
    starts = np.cumsum(counts) - counts
    gaps_s = np.diff(times_s, prepend=np.nan)
    gaps_s[starts[counts > 0]] = np.nan
    return pd.DataFrame(
        {
            "request_index": np.repeat(records["request_index"].to_numpy(), counts),
            "chunk": np.arange(len(times_s)) - np.repeat(starts, counts),
            "t_s": times_s,
            "tokens": pc.list_flatten(records["chunk_tokens"]).to_numpy(),
            "gap_s": gaps_s,
        }
    ).assign(**_named(cell))


def _telemetry(cell: CellResult) -> pd.DataFrame:
    frame: pd.DataFrame = cell.telemetry.to_pandas()
    start_ns = _start_ns(cell.records)
    return frame.assign(t_s=(frame["t_ns"] - start_ns) / NS, **_named(cell))
