"""The exception tree: everything that a user can cause or repair.

    BenchError
    |-- UsageError              bad input; the command line prints it and exits with code 2
    |   |-- UnknownNameError    an engine, workload, model, option ... that nobody registered
    |   `-- ModelError          a model that cannot be found, read or run
    |-- EngineError             an engine could not start, died or hung; its cell is marked failed
    |-- DriverError             the load driver failed; the cell is marked failed
    `-- StoreError              a Run folder that cannot be read or written
        `-- DamagedError        a file in it that does not hold what it should

A message names the value, says what was allowed, and ends with the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BenchError",
    "DamagedError",
    "DriverError",
    "EngineError",
    "ModelError",
    "StoreError",
    "UnknownNameError",
    "UsageError",
]


class BenchError(Exception):
    """Base of every error that is shown to the user without a traceback."""

    exit_code = 1


class UsageError(BenchError):
    """The request itself is wrong: nothing was started and nothing was written."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nobody registered; the nearest known names are offered first."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        allowed = f" (known: {', '.join(names)})" if names else ""
        super().__init__(f"unknown {kind} {name!r}{hint}{allowed}{'. ' + fix if fix else ''}")
        self.kind, self.name, self.near = kind, name, near


class ModelError(UsageError):
    """A model that cannot be found, read, or run by the engine that was asked to."""


class EngineError(BenchError):
    """An engine that could not start, died, or stopped answering.

    `log_tail` holds the last lines of the engine's own log.
    """

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class DriverError(BenchError):
    """The load driver process failed; says nothing about the engine."""


class StoreError(BenchError):
    """A Run folder that cannot be written, or is not one, or is damaged."""

    exit_code = 2


class DamagedError(StoreError):
    """A file of a Run folder is missing, cut off, or holds something else than it should."""
