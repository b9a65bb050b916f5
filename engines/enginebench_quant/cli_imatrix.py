"""`bench imatrix`: which columns of a model's weights matter, for `bench quantize --imatrix`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["imatrix_command"]


@click.command("imatrix", short_help="Measure which weights matter, for bench quantize.")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--context", type=click.IntRange(min=8), default=512, show_default=True)
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows of text.")
def imatrix_command(model: str, file: Path, out: Path, context: int, windows: int | None) -> None:
    """Write the importance matrix of MODEL, as it reads the text FILE, to the GGUF file OUT.

    The format is llama.cpp's. Take the model in 16 or 32 bits, and a text of the kind that it is
    used on.
    """
    from enginebench.errors import UsageError
    from enginebench_models import open_model
    from enginebench_models.imatrix import write_imatrix
    from enginebench_quant.cli_perplexity import cut_text, watch_windows
    from enginebench_quant.importance import input_sums

    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    opened = open_model(model)
    text = cut_text(opened, file, context, windows)
    with watch_windows(text) as progress:
        sums = input_sums(opened, text, progress)
    count = len(text.tokens)
    write_imatrix(out, sums, dataset=file.name, chunks=count, chunk_tokens=context)
    click.echo(f"{out}: {len(sums)} tensors, {count} windows of {context} tokens")
