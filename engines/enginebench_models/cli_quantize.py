"""`bench quantize`: a model in fewer bits, as a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from enginebench_models.conversion import Source
    from enginebench_models.mixes import Mix
    from enginebench_models.weights import Weights

__all__ = ["quantize_command"]


@click.command("quantize", short_help="Write a model in fewer bits, as a GGUF file.")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--type", "type_name", required=True, help="q4_k_m, q8_0, bf16 ... (a wrong one lists all)."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads that compute; all cores it may use if not given.",
)
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An importance matrix of the model (bench imatrix): errors where it matters weigh more.",
)
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
def quantize_command(
    source: str,
    out: Path,
    type_name: str,
    threads: int | None,
    imatrix: Path | None,
    force: bool,
) -> None:
    """Write the model SOURCE (a Hugging Face folder, a GGUF file, a name) to the GGUF file OUT.

    Tensors that a type does not fit get the nearest one that does, as in llama.cpp.
    """
    from enginebench_models.conversion import convert, open_source
    from enginebench_models.mixes import find_mix
    from enginebench_models.quantizers import WEIGHTED

    mix = find_mix(type_name)
    _check_target(out, force=force)
    opened = open_source(source)
    _warn(opened, mix)
    importance = _importance(imatrix, mix)
    with _watch(opened.weights.parameters, out) as report:
        written = convert(
            opened,
            out,
            mix,
            threads=threads or _usable_cores(),
            progress=report,
            importance=importance,
        )
    _summarize(opened, written, out)
    if importance:
        weighed = [t for t in written.values() if t.name in importance and t.type in WEIGHTED]
        click.echo(f"importance matrix: {len(weighed)} tensors quantized by it")


def _importance(path: Path | None, mix: Mix) -> Mapping[str, NDArray[np.float32]] | None:
    from enginebench.errors import UsageError
    from enginebench_models.imatrix import read_importance
    from enginebench_models.quantizers import WEIGHTED

    if path is None:
        return None
    if mix.main not in WEIGHTED:
        known = ", ".join(type.name.lower() for type in WEIGHTED)
        raise UsageError(
            f"--imatrix does nothing for {mix.name}; it is for {known} and their mixes"
        )
    return read_importance(path)


def _check_target(out: Path, *, force: bool) -> None:
    from enginebench.errors import UsageError

    if out.exists() and not force:
        raise UsageError(f"{out} is there already; --force replaces it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")


def _warn(source: Source, mix: Mix) -> None:
    lossy = source.quantized_types
    if lossy and mix.main.is_quantized:
        names = ", ".join(type.name for type in lossy)
        click.echo(
            f"The source is quantized itself ({names}): what it lost stays lost. "
            "Quantize from a model in 16 or 32 bits for the best result.",
            err=True,
        )


@contextmanager
def _watch(n_values: int, out: Path) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on a terminal; elsewhere a line for each tenth."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(n_values, out).add
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(out.name, total=n_values)
        yield lambda name, done: bar.update(task, advance=done, description=name)


class _Lines:
    """Says how far it is, ten times in all."""

    def __init__(self, n_values: int, out: Path) -> None:
        self._total, self._name = n_values, out.name
        self._done = self._tenths = 0

    def add(self, name: str, n_values: int) -> None:
        self._done += n_values
        tenths = 10 * self._done // max(self._total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            click.echo(f"{self._name}: {10 * tenths} %", err=True)


def _summarize(source: Source, written: Weights, out: Path) -> None:
    from enginebench_models.show import megabytes

    counts = ", ".join(f"{n} {type.name}" for type, n in written.count_by_type().most_common())
    click.echo(f"{out}: {megabytes(out.stat().st_size)}")
    click.echo(
        f"weights: {megabytes(source.weights.size_bytes)} ({_bits(source.weights):.2f} bits each) "
        f"-> {megabytes(written.size_bytes)} ({_bits(written):.2f} bits each)"
    )
    click.echo(f"tensors: {counts}")


def _bits(weights: Weights) -> float:
    return 8 * weights.size_bytes / weights.parameters


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
