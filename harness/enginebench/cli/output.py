"""Where tables go: the terminal as wide as it is, a pipe as wide as the table needs."""

from __future__ import annotations

import sys

from rich.console import Console

__all__ = ["output_console"]

PIPE_WIDTH = 200


def output_console() -> Console:
    """A console on the current stdout."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH)
