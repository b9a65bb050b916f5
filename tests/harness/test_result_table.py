"""The table at the end: which columns, which order, which figures."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console

from enginebench.result_table import result_table
from enginebench.results import ResultSet
from enginebench.types import Load

FIGURES = {
    "ttft_s_p50": [0.0123, None],
    "tpot_s_p50": [0.00512, None],
    "output_tokens_per_s": [12345.6, None],
    "requests_failed": [0.0, 3.0],
    "peak_rss_bytes": [412e6, 98.7e6],
    "peak_gpu_memory_bytes": [None, None],
}
COMMON = {
    "model": ["/some/where/tiny", "/some/where/tiny"],
    "hardware": ["cpu:2", "cpu:2"],
    "workload": ["fixed", "fixed"],
    "users": [16, 1],
    "rate_rps": [None, None],
    "repeat": [0, 0],
    "label": ["paged block_size=16", "quant"],
    "state": ["ok", "failed"],
}


class FakeCell:
    def __init__(self, users: int) -> None:
        self.cell = type("Cell", (), {"load": Load(users=users)})


class FakeResults(ResultSet):
    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame({**COMMON, **FIGURES})


def rendered() -> list[str]:
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(result_table(FakeResults([FakeCell(16), FakeCell(1)])))  # type: ignore[list-item]
    return console.export_text().splitlines()


def cells_of(line: str) -> list[str]:
    return [part.strip() for part in line.replace("┃", "│").strip("│ ").split("│")]


def test_what_all_cells_share_is_the_title() -> None:
    assert rendered()[0].strip() == "tiny · cpu:2 · fixed"


def test_columns_without_any_figure_are_left_out() -> None:
    assert cells_of(rendered()[2]) == [
        "engine",
        "load",
        "TTFT p50 ms",
        "TPOT p50 ms",
        "output tok/s",
        "errors",
        "peak RSS MB",
        "state",
    ]


def test_rows_are_ordered_by_load_and_read_well() -> None:
    first, second = (cells_of(line) for line in rendered()[4:6])
    assert first == ["quant", "c1", "-", "-", "-", "3", "99", "failed"]
    assert second == ["paged block_size=16", "c16", "12.3", "5.12", "12,346", "0", "412", "ok"]
