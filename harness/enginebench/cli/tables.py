"""`bench tables`: documents whose tables come from Runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from enginebench.atomic import write_bytes
from enginebench.errors import UsageError

__all__ = ["tables"]


@click.command()
@click.argument(
    "documents", metavar="DOCUMENT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if a table is out of date.")
@click.pass_context
def tables(ctx: click.Context, documents: Sequence[Path], check: bool) -> None:
    """Make the tables of Markdown DOCUMENTs anew from the Runs that they name.

    \b
    <!-- table runs/20260101-120000-smollm2-135m: output_tokens_per_s, ttft_s_p50 -->
    <!-- end table -->

    Between these lines comes a row for each engine and load. A figure written
    output_tokens_per_s@16 is that at 16 users, with one row for each engine.
    """
    from enginebench.document_tables import refreshed

    stale = False
    for path in documents:
        try:
            before = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}: {error}") from None
        after = refreshed(before, path.parent)
        if after == before:
            continue
        stale = True
        click.echo(f"{path}: {'out of date' if check else 'refreshed'}")
        if not check:
            write_bytes(path, after.encode())
    ctx.exit(1 if check and stale else 0)
