"""Reads Runs and says what they show: metrics, answers, tables, plots, pages.

    from enginebench_reports import plots
    plots.throughput(enginebench.load("runs/..."))

Starts nothing and imports nothing when it is imported: modules are named for their nouns.
"""

__all__ = ["answer", "figures", "html", "markdown", "metrics", "plots", "summary", "tables"]
