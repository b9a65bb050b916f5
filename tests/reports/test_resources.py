from __future__ import annotations

from typing import Any

import pytest
from simulated import MS

from enginebench.schemas import telemetry_table
from enginebench_reports.resources import resources
from enginebench_reports.throughput import Window

WINDOW = Window(1000 * MS, 5000 * MS, is_steady=True)


def figures(*samples: dict[str, Any], tokens: float = 100) -> dict[str, float | None]:
    """Samples by time in ms."""
    rows = [{"t_ns": each.pop("ms") * MS, **each} for each in samples]
    return dict(resources(telemetry_table(rows), WINDOW, tokens))


def test_peaks_are_over_the_whole_cell_and_means_over_the_window() -> None:
    found = figures(
        {"ms": 0, "rss_bytes": 900, "cpu_percent": 10.0},
        {"ms": 2000, "rss_bytes": 500, "cpu_percent": 150.0, "client_cpu_percent": 3.0},
        {"ms": 4000, "rss_bytes": 600, "cpu_percent": 190.0, "client_cpu_percent": 5.0},
        {"ms": 9000, "gpu_memory_bytes": 7},
    )
    assert found["peak_rss_bytes"] == 900
    assert found["peak_gpu_memory_bytes"] == 7
    assert found["mean_cpu_percent"] == 170
    assert found["client_cpu_percent"] == 4


def test_energy_by_power_over_time() -> None:
    """100 W, then rising evenly to 300 W between 3 s and 5 s: 200 J + 400 J."""
    found = figures(
        {"ms": 0, "gpu_power_w": 100.0},
        {"ms": 3000, "gpu_power_w": 100.0},
        {"ms": 5000, "gpu_power_w": 300.0},
        {"ms": 6000, "gpu_power_w": 300.0},
    )
    assert found["energy_j_per_token"] == pytest.approx(6.0)
    assert found["mean_power_w"] == pytest.approx(150)


def test_the_devices_own_counter_is_better_than_power_samples() -> None:
    found = figures(
        {"ms": 0, "gpu_energy_j": 1000.0, "gpu_power_w": 9999.0},
        {"ms": 10_000, "gpu_energy_j": 2000.0, "gpu_power_w": 9999.0},
    )
    assert found["energy_j_per_token"] == pytest.approx(4.0)


def test_samples_that_do_not_reach_across_the_window_are_no_energy() -> None:
    found = figures({"ms": 2000, "gpu_power_w": 100.0}, {"ms": 3000, "gpu_power_w": 100.0})
    assert found["energy_j_per_token"] is None


def test_no_tokens_no_energy_per_token() -> None:
    found = figures({"ms": 0, "gpu_power_w": 50.0}, {"ms": 6000, "gpu_power_w": 50.0}, tokens=0)
    assert found["energy_j_per_token"] is None
    assert found["mean_power_w"] == pytest.approx(50)


def test_nothing_sampled_and_columns_of_older_runs() -> None:
    assert set(figures().values()) == {None}
    old = telemetry_table([{"t_ns": 2000 * MS, "rss_bytes": 5}]).select(["t_ns", "rss_bytes"])
    found = resources(old, WINDOW, 1)
    assert found["peak_rss_bytes"] == 5
    assert found["mean_cpu_percent"] is None
    assert resources(old, None, 0)["peak_rss_bytes"] == 5
