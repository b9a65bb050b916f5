"""The report's figures, each a function of results and optional axes that returns the axes.

    ax = plots.throughput(results)               # ResultSet, its frame, or one Group
    ax.figure.savefig("throughput.svg")

    figure, (left, right) = plt.subplots(1, 2)   # or into axes of your own
    plots.throughput(results, ax=left)
    plots.latency_against_throughput(results, ax=right)

    plots.timeline(results.cells[0])             # one cell, request by request

One line per engine; where results hold several models or machines, one line for each of their
engines. `look` keeps colours the same over several figures. Nothing here writes a file (see
`figures`), and pyplot is never imported.
"""

from __future__ import annotations

from enginebench_reports.plot_distribution import itl_distribution, ttft_distribution
from enginebench_reports.plot_load import (
    energy,
    goodput,
    latency,
    latency_against_throughput,
    throughput,
)
from enginebench_reports.plot_memory import memory
from enginebench_reports.plot_sweep import hardware_sweep, model_sweep
from enginebench_reports.plot_timeline import timeline

__all__ = [
    "energy",
    "goodput",
    "hardware_sweep",
    "itl_distribution",
    "latency",
    "latency_against_throughput",
    "memory",
    "model_sweep",
    "throughput",
    "timeline",
    "ttft_distribution",
]
