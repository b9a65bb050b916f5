"""The table at the end of `bench run`: one row per cell, the figures that people ask for first.

Everything comes from `ResultSet.to_pandas()`; a column whose metric no plugin provides is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.table import Table

from enginebench.results import CellResult, ResultSet
from enginebench.types import Flag

__all__ = ["FIGURES", "figure", "result_table", "text_of"]

Format = Callable[[float], str]


def _milliseconds(seconds: float) -> str:
    return figure(seconds * 1e3)


def figure(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


FIGURES: tuple[tuple[str, str, Format], ...] = (
    ("ttft_s_p50", "TTFT p50 ms", _milliseconds),
    ("tpot_s_p50", "TPOT p50 ms", _milliseconds),
    ("itl_s_p99", "ITL p99 ms", _milliseconds),
    ("output_tokens_per_s", "output tok/s", figure),
    ("requests_per_s", "req/s", figure),
    ("requests_failed", "errors", _count),
    ("answer_agreement_share", "answers agree", _percent),
    ("energy_j_per_token", "J/token", figure),
    ("cost_per_million_tokens", "cost/M tokens", figure),
    ("tpot_floor_share", "of TPOT limit", _percent),
    ("peak_rss_bytes", "peak RSS MB", _megabytes),
    ("peak_gpu_memory_bytes", "peak GPU MB", _megabytes),
)
_AXES = (("label", "engine"), ("model", "model"), ("hardware", "hardware"), ("load", "load"))
_ALWAYS = frozenset({"label", "load"})


def result_table(results: ResultSet, flags: Mapping[str, Sequence[Flag]] | None = None) -> Table:
    """Rows grouped by model, hardware and load, so that engines stand under each other.

    `flags`, by cell id, put `invalid` or `caution` in the place of `ok`.
    """
    frame = results.to_pandas()
    if flags is not None:
        frame["state"] = [_state(result, flags.get(result.cell.id, ())) for result in results]
    frame["model"] = [PurePath(name).name for name in frame["model"]]
    frame["load"] = [str(result.cell.load) for result in results]
    repeated = frame["repeat"].nunique() > 1
    axes = [
        (column, title)
        for column, title in _AXES
        if column in _ALWAYS or frame[column].nunique() > 1
    ] + ([("repeat", "repeat")] if repeated else [])
    figures = [f for f in FIGURES if f[0] in frame and frame[f[0]].notna().any()]
    order = ["model", "hardware", "users", "rate_rps", "label", "repeat"]
    table = Table(title=_title(frame))
    for _, title in axes:
        table.add_column(title)
    for _, title, _ in figures:
        table.add_column(title, justify="right")
    table.add_column("state")
    for _, row in frame.sort_values(order, kind="stable").iterrows():
        table.add_row(
            *(str(row[column]) for column, _ in axes),
            *(text_of(row[column], show) for column, _, show in figures),
            row["state"] if row["state"] in ("ok", "caution") else f"[red]{row['state']}",
        )
    return table


def _state(result: CellResult, flags: Sequence[Flag]) -> str:
    return flags[0].level if flags and result.status.state == "ok" else result.status.state


def text_of(value: Any, show: Format) -> str:
    """The value as `show` writes it, or a dash where there is none."""
    return "-" if value is None or math.isnan(value) else show(float(value))


def _title(frame: Any) -> str:
    """What all cells have in common, so that no column repeats it."""
    parts = [frame[c].iloc[0] for c in ("model", "hardware", "workload") if frame[c].nunique() == 1]
    return " · ".join(map(str, parts))
