"""The command `bench`: thin, one module per command group; the work is done elsewhere."""

from __future__ import annotations

from enginebench.cli.main import main

__all__ = ["main"]
