"""`bench report`: Run folders through report plugins. Starts no engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginebench import plugins
from enginebench.errors import StoreError, UnknownNameError, UsageError
from enginebench.slo import Slo
from enginebench.store import load

if TYPE_CHECKING:
    from enginebench.results import ResultSet
    from enginebench.types import Report

__all__ = ["default_formats", "render_reports", "report"]

DEFAULT_FORMATS = ("html", "markdown", "plots")


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format", "formats", metavar="NAMES", help=f"Comma list. [{','.join(DEFAULT_FORMATS)}]"
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where the files go. [RUN/report; ./report for several Runs]",
)
@click.option(
    "--slo",
    metavar="BOUNDS",
    help="Count goodput against these instead of the Run's: ttft=500ms,tpot=50ms,e2e=10s.",
)
@click.option(
    "--claims",
    "claims_file",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A TOML file of claims to hold against the Runs instead of the built-in ones.",
)
@click.pass_obj
def report(
    manager: plugins.PluginManager,
    runs: Sequence[Path],
    formats: str | None,
    out: Path | None,
    slo: str | None,
    claims_file: Path | None,
) -> None:
    """Render Run folders; several are compared in one report.

    Prints the main file of each format.
    """
    chosen = default_formats(manager) if formats is None else _named(formats, manager)
    results = load(*runs)
    if slo is not None:
        results = results.with_slo(Slo.parse(slo))
    if claims_file is not None:
        results = results.with_claims(claims_file)
    folder = out or (runs[0] / "report" if len(runs) == 1 else Path("report"))
    for path in render_reports(results, chosen, folder):
        click.echo(path)


def default_formats(manager: plugins.PluginManager) -> Sequence[Report]:
    """Those of the default formats that are installed."""
    known = plugins.reports(manager)
    return [known[name] for name in DEFAULT_FORMATS if name in known]


def render_reports(results: ResultSet, reports: Sequence[Report], folder: Path) -> Iterator[Path]:
    """Render one after another; yields the main file of each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write the report into {folder}: {error.strerror}") from error
    for each in reports:
        yield from each.render(results, folder)[:1]


def _named(text: str, manager: plugins.PluginManager) -> Sequence[Report]:
    known = plugins.reports(manager)
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if not name:
            raise UsageError(f"--format {text!r}: a name is empty")
        if name not in known:
            raise UnknownNameError("report format", name, known)
    return [known[name] for name in names]
