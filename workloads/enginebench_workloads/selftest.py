"""`bench selftest`: how far this machine's client can be trusted, and up to which load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from enginebench.errors import UsageError

if TYPE_CHECKING:
    from enginebench_workloads.calibration import Outcome

__all__ = ["Row", "conclusion", "selftest"]

SATURATED_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Row:
    """One load, in the units that are shown."""

    streams: int
    events_per_s: float
    cpu_percent: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    lag_p99_ms: float | None

    @classmethod
    def of(cls, streams: int, outcome: Outcome) -> Row:
        lag_s = outcome.done.loop_lag_s_p99
        return cls(
            streams,
            outcome.events_per_s,
            outcome.cpu_share * 100,
            outcome.ttft_error_s(50) * 1e3,
            outcome.ttft_error_s(99) * 1e3,
            outcome.itl_error_s(50) * 1e3,
            outcome.itl_error_s(99) * 1e3,
            None if lag_s is None else lag_s * 1e3,
        )

    def problem(self, limit_ms: float) -> str | None:
        """Why figures taken at this load would not be the server's; None if they would."""
        if self.cpu_percent >= SATURATED_SHARE * 100:
            return f"the driver needed {self.cpu_percent:.0f}% of its core"
        for name, error_ms in (("TTFT", self.ttft_p99_ms), ("ITL", self.itl_p99_ms)):
            if error_ms > limit_ms:
                return f"{name} was {error_ms:.2f} ms off (p99)"
        return None

    def __str__(self) -> str:
        lag = "-" if self.lag_p99_ms is None else f"{self.lag_p99_ms:.2f}"
        return (
            f"{self.streams:7d} {self.events_per_s:9,.0f} {self.cpu_percent:6.0f} "
            f"{self.ttft_p50_ms:9.3f} {self.ttft_p99_ms:8.3f} {self.itl_p50_ms:8.3f} "
            f"{self.itl_p99_ms:8.3f} {lag:>7}"
        )


HEADER = (
    "                  client  TTFT error (ms)    ITL error (ms)  lag ms\n"
    "streams  events/s  CPU %       p50      p99      p50      p99     p99"
)


@click.command()
@click.option("--streams", default="1,16,64,256,512,1024", show_default=True, metavar="N,...")
@click.option("--itl-ms", default=20.0, show_default=True, type=click.FloatRange(min=0.1))
@click.option("--ttft-ms", default=20.0, show_default=True, type=click.FloatRange(min=0))
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(min=2))
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0.1), help="Per load."
)
@click.option(
    "--limit-ms",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The p99 error that is still honest.",
)
@click.option(
    "--stamps",
    default="kernel",
    show_default=True,
    type=click.Choice(["kernel", "read"]),
    help="When an event counts as arrived: as the kernel received it, or as the driver read it.",
)
@click.pass_context
def selftest(
    ctx: click.Context,
    streams: str,
    itl_ms: float,
    ttft_ms: float,
    tokens: int,
    seconds: float,
    limit_ms: float,
    stamps: str,
) -> None:
    """Hold the load driver against a server whose timing is known, at rising load.

    An error is how far a measured TTFT or ITL is from the truth. The test ends at the second load
    in a row at which this machine's client is not honest any more; run it while nothing else runs.

    Exit code 0: honest at the lowest load at least; 1: not even there.
    """
    from enginebench_workloads.calibration import Trial, play

    rows: list[Row] = []
    if warning := _busy(os.getloadavg()[0], os.cpu_count() or 1):
        click.echo(warning, err=True)
    click.echo(HEADER)
    for count in _counts(streams):
        outcome = play(Trial(count, itl_ms, ttft_ms, tokens, seconds, stamps == "kernel"))
        rows.append(Row.of(count, outcome))
        problem = rows[-1].problem(limit_ms)
        click.echo(str(rows[-1]) + (f"  not honest: {problem}" if problem else ""))
        if len(rows) > 1 and problem and rows[-2].problem(limit_ms):
            break
    click.echo(conclusion(rows, limit_ms))
    ctx.exit(1 if rows[0].problem(limit_ms) else 0)


def conclusion(rows: Sequence[Row], limit_ms: float) -> str:
    """Up to which load the client is honest, and what happens behind it; `rows` in rising order."""
    honest = None
    for row in rows:
        problem = row.problem(limit_ms)
        if problem is None:
            honest = row
            continue
        if honest is None:
            return f"Not honest at any load that was tried: {problem} at {_load(row)}."
        return f"Honest up to {_load(honest)}; no more at {_load(row)}: {problem}."
    assert honest is not None
    return f"Honest at every load that was tried, up to {_load(honest)}."


def _busy(waiting: float, cores: int) -> str | None:
    """A warning if others are at work: two cores are needed, one for each side."""
    if cores - waiting >= 1.5:
        return None
    return (
        f"{waiting:.1f} processes share the {cores} cores of this machine: its errors will be "
        "larger than those of the client alone"
    )


def _load(row: Row) -> str:
    return f"{row.events_per_s:,.0f} events/s ({row.streams} stream{'s' * (row.streams != 1)})"


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or counts != sorted(set(counts)) or counts[0] < 1:
        raise UsageError(f"--streams {text!r}: must be whole numbers from 1 up in rising order")
    return counts
