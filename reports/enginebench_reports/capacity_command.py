"""`bench plan-capacity`: from measured cells to how many replicas a load needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from enginebench.errors import StoreError, UsageError
from enginebench.slo import Slo

__all__ = ["plan_capacity"]


@click.command("plan-capacity")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--rate", "rates", metavar="R,...", required=True, help="Requests per second.")
@click.option(
    "--slo", "bounds", metavar="BOUNDS", required=True, help="As in ttft=500ms,tpot=50ms."
)
@click.option("--share", metavar="PERCENT", default="99", help="Of the requests. [99]")
@click.option(
    "--price", metavar="HW=$,...", help="A replica's dollars an hour, as in cuda:0=2.5,cpu:2=0.1."
)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def plan_capacity(
    runs: Sequence[Path],
    rates: str,
    bounds: str,
    share: str,
    price: str | None,
    json_file: Path | None,
) -> None:
    """How many replicas of each engine in these Runs a load needs to keep an SLO.

    \b
    bench plan-capacity runs/h100 --rate 10,1000 --slo ttft=1s,tpot=50ms --price cuda:0=2.5

    Needs closed-loop cells from one request at a time on (`--concurrency 1,4,16,64`); requests are
    taken to be as long as those measured. Open-loop cells in the Runs say how good the model is.
    """
    from rich.console import Console

    from enginebench.store import load
    from enginebench_reports.capacity import check_against, least_fleet
    from enginebench_reports.capacity_curve import service_curves
    from enginebench_reports.capacity_documents import checks_table, fleets_table, json_text
    from enginebench_reports.summary import Summary

    slo, least, prices = Slo.parse(bounds), _share(share), _prices(price)
    loads = [_positive("--rate", text) for text in rates.split(",")]
    summary = Summary.of(load(*runs))
    services = service_curves(summary.groups)
    if not services:
        raise UsageError(
            "these Runs hold no engine measured with one request at a time, which is where a "
            "curve begins: bench run --concurrency 1,4,16"
        )
    fleets = [least_fleet(one, rate, slo, share=least) for rate in loads for one in services]
    checks = list(check_against(services, summary))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    console.print(fleets_table(fleets, slo, least, prices))
    if checks:
        console.print(checks_table(checks))
    if json_file is not None:
        _write(json_file, json_text(fleets, checks, prices))


def _share(text: str) -> float:
    percent = _positive("--share", text.removesuffix("%"))
    if percent >= 100:
        raise UsageError(f"--share {text}: with random arrivals no fleet serves all; try 99.9")
    return percent / 100


def _prices(text: str | None) -> dict[str, float]:
    prices = {}
    for part in text.split(",") if text else ():
        hardware, equals, price = (piece.strip() for piece in part.partition("="))
        if not equals or not hardware:
            raise UsageError(f"--price {part!r}: write HARDWARE=DOLLARS, as in cuda:0=2.5")
        prices[hardware] = _positive("--price", price)
    return prices


def _positive(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} {text!r}: give a number above 0")
    return value


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
