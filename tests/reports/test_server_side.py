from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import MS, cell, record, save

from enginebench.results import CellStatus
from enginebench.schemas import requests_table, telemetry_table
from enginebench.store import CellData
from enginebench.types import Message, Request
from enginebench_reports.metrics import serving_figures
from enginebench_reports.resources import resources
from enginebench_reports.server_side import server_side
from enginebench_reports.shared_prefixes import reusable_share
from enginebench_reports.throughput import Window
from enginebench_reports.validity import flags

WINDOW = Window(1000 * MS, 5000 * MS, is_steady=True)


def table(*samples: dict[str, Any]) -> Any:
    return telemetry_table([{"t_ns": each.pop("ms") * MS, **each} for each in samples])


def test_figures_are_of_the_window() -> None:
    found = server_side(
        table(
            {"ms": 500, "server_waiting": 99.0, "server_preemptions": 0.0},
            {"ms": 1500, "server_waiting": 2.0, "server_running": 4.0, "server_preemptions": 3.0},
            {"ms": 2000},
            {"ms": 2500, "server_prefix_queried_tokens": 100.0, "server_prefix_hit_tokens": 40.0},
            {"ms": 3500, "server_waiting": 4.0, "server_kv_used_share": 0.5},
            {"ms": 4500, "server_prefix_queried_tokens": 300.0, "server_prefix_hit_tokens": 90.0},
            {"ms": 4500, "server_kv_filled_share": 0.75},
            {"ms": 4550, "server_kv_filled_share": 1.0},
            {"ms": 4600, "server_kv_used_share": 0.25, "server_preemptions": 5.0},
            {"ms": 9000, "server_kv_used_share": 0.9, "server_preemptions": 50.0},
        ),
        WINDOW,
    )
    assert found == {
        "server_running_mean": 4.0,
        "server_waiting_mean": 3.0,
        "server_kv_used_share_max": 0.5,
        "kv_waste_share": 0.125,
        "server_prefix_hit_share": 0.25,
        "server_preemptions": 2.0,
    }


def test_a_server_that_tells_nothing_has_no_figures() -> None:
    assert set(server_side(table({"ms": 2000}), WINDOW).values()) == {None}
    assert set(server_side(table({"ms": 2000}), None).values()) == {None}


def test_threads_switches_and_clocks() -> None:
    found = resources(
        table(
            {"ms": 0, "threads": 9, "gpu_throttle_reasons": 0x8},
            {"ms": 1000, "voluntary_switches": 100, "involuntary_switches": 10},
            {"ms": 2000, "gpu_sm_clock_mhz": 1000.0, "gpu_throttle_reasons": 0x4},
            {"ms": 3000, "voluntary_switches": 300, "involuntary_switches": 20},
            {"ms": 4000, "threads": 5, "gpu_sm_clock_mhz": 2000.0, "gpu_throttle_reasons": 0x40},
        ),
        WINDOW,
        100,
    )
    assert found["peak_threads"] == 9
    assert found["context_switches_per_s"] == pytest.approx((200 + 10) / 2)
    assert found["mean_sm_clock_mhz"] == 1500
    assert (found["slowed_share"], found["power_capped_share"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("prompts", "share"),
    [
        ([(1, 2, 3, 4), (5, 6, 7, 8)], 0.0),
        ([(1, 2, 3, 4), (1, 2, 7, 8), (1, 2, 3, 9)], 5 / 12),
        (["abcd", "abxy"], 2 / 8),
        ([(1, 2, 3, 4)] * 4, 12 / 16),
        ([(Message("user", "hello"),)], None),
        ([], None),
    ],
)
def test_what_a_cache_could_reuse(prompts: list[Any], share: float | None) -> None:
    found = reusable_share(requests_table(Request(i, p, 4) for i, p in enumerate(prompts)))
    assert found == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(("shared", "doubted"), [(0, True), (60, True), (128, False)])
def test_hits_that_the_prompts_do_not_explain_are_invalid(
    tmp_path: Path, shared: int, doubted: bool
) -> None:
    prompts = [(*range(shared), *range(1000 + 500 * i, 1128 + 500 * i - shared)) for i in range(20)]
    records = [
        record(i, scheduled_ms=200 * i, prompt_tokens=128, cached_prompt_tokens=100)
        for i in range(20)
    ]
    status = CellStatus("ok", measure_start_ns=0, measure_end_ns=3900 * MS)
    data = CellData(status, [Request(i, p, 3) for i, p in enumerate(prompts)], records)
    result = save(tmp_path / "run", [(cell(0, "paged", 1), data)]).cells[0]
    names = [flag.name for flag in flags(result, serving_figures(result))]
    assert ("unexpected_prefix_hits" in names) is doubted


@pytest.mark.parametrize(("reasons", "doubted"), [(0x40, True), (0x4, False)])
def test_a_gpu_held_down_by_heat_is_told(tmp_path: Path, reasons: int, doubted: bool) -> None:
    status = CellStatus("ok", measure_start_ns=0, measure_end_ns=3900 * MS)
    samples = [{"t_ns": 1000 * MS, "gpu_throttle_reasons": reasons}]
    data = CellData(status, [], [record(i, scheduled_ms=200 * i) for i in range(20)], samples)
    result = save(tmp_path / "run", [(cell(0, "paged", 1), data)]).cells[0]
    names = [flag.name for flag in flags(result, serving_figures(result))]
    assert ("slowed_gpu" in names) is doubted
