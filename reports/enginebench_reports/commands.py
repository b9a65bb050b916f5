"""`bench compare` and `bench claims`: Run folders on the terminal. Neither starts an engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginebench.errors import StoreError, UsageError
from enginebench.plugins import PluginManager

if TYPE_CHECKING:
    from rich.console import Console

    from enginebench_reports.compare_arms import Arm

__all__ = ["claims", "compare"]

PIPE_WIDTH = 200


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metrics", metavar="NAMES", help="Comma list; `bench metrics` explains them.")
@click.pass_obj
def compare(manager: PluginManager, runs: Sequence[Path], metrics: str | None) -> None:
    """Compare Runs with the first of them, cell by cell; of a single Run, its engines.

    \b
    bench compare runs/before runs/after
    bench compare runs/one            # the engines in it, each with the first

    Repeats are paired in order. Intervals hold for the whole table at once.
    """
    from enginebench_reports.compare import DEFAULT_METRICS, chosen_metrics
    from enginebench_reports.compare import compare as compare_arms
    from enginebench_reports.compare_arms import metric_infos
    from enginebench_reports.compare_table import comparison_table, notes

    known = metric_infos(manager)
    names = _names(metrics) if metrics is not None else [n for n in DEFAULT_METRICS if n in known]
    chosen = chosen_metrics(names, known)
    first, *others = _arms(runs, manager)
    console = _console()
    for other in others:
        comparison = compare_arms(first, other, chosen)
        if not comparison.contrasts:
            raise UsageError(_nothing_common(first, other))
        console.print(comparison_table(comparison))
        for note in notes(comparison):
            console.print(note, markup=False, style="dim")


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--claims",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A TOML file of claims instead of the built-in ones.",
)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--markdown", "markdown_file", metavar="FILE", type=click.Path(path_type=Path))
def claims(
    runs: Sequence[Path], file: Path | None, json_file: Path | None, markdown_file: Path | None
) -> None:
    """Hold common claims about inference engines against Runs.

    \b
    bench claims runs/h100 runs/laptop
    bench claims runs/mine --claims mine.toml --markdown claims.md

    A claim holds, does not hold, or cannot be tested with these Runs; figures and cells say why.
    """
    from enginebench.store import load
    from enginebench_reports.claims import judge_claims
    from enginebench_reports.claims_documents import claims_table, json_text, markdown
    from enginebench_reports.claims_file import built_in_claims, read_claims

    chosen = built_in_claims() if file is None else read_claims(file)
    results = load(*runs)
    rulings = judge_claims(chosen, results)
    _console().print(claims_table(rulings))
    for path, text in (
        (json_file, json_text(rulings)),
        (markdown_file, markdown(rulings, results)),
    ):
        if path is not None:
            _write(path, text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _arms(runs: Sequence[Path], manager: PluginManager) -> Sequence[Arm]:
    from enginebench.store import load
    from enginebench_reports.compare_arms import arm_of, arms_by_engine

    if len(set(runs)) < len(runs):
        raise UsageError("a Run is named twice; it equals itself")
    arms = [arm_of(name, load(run), manager) for name, run in zip(_titles(runs), runs, strict=True)]
    if len(arms) > 1:
        return arms
    engines = sorted(arms_by_engine(arms[0]), key=lambda arm: arm.is_null)
    if len(engines) < 2:
        raise UsageError(
            f"{runs[0]} holds one engine only ({engines[0].name if engines else 'none'}), so there "
            "is nothing to compare it with; name a second Run"
        )
    return engines


def _titles(runs: Sequence[Path]) -> Sequence[str]:
    """The folders' names, or the paths where two of them have the same name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _nothing_common(first: Arm, other: Arm) -> str:
    def held(arm: Arm) -> Iterator[str]:
        for place, cells in list(arm.cells.items())[:6]:
            doubts = "" if any(cell.is_valid for cell in cells) else " (no valid figure)"
            budget = place.parts["budget"]
            yield f"  {place} {place.parts['workload options']} {budget}{doubts}"

    return "\n".join(
        [
            "no cell is the same in both: model, hardware, workload with its options, load and "
            "budget must be equal",
            f"{first.name} holds:",
            *held(first),
            f"{other.name} holds:",
            *held(other),
        ]
    )


def _names(text: str) -> Sequence[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"--metrics {text!r}: a name is empty")
    return list(dict.fromkeys(names))


def _console() -> Console:
    """As wide as the terminal, or as wide as a table needs in a pipe."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH)
