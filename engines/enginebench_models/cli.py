"""`bench models`: fetch models, list them, show what is in one."""

from __future__ import annotations

import click

__all__ = ["models"]


@click.group()
def models() -> None:
    """Fetch, list and inspect models."""


@models.command("list")
def list_models() -> None:
    """List the models that go by a name."""
    from rich.console import Console

    from enginebench_models.show import registry_table, synthetic_table

    console = Console()
    console.print(registry_table())
    console.print(synthetic_table())
    console.print("--model also takes a GGUF file, a Hugging Face folder, or a hub id (org/name).")


@models.command("pull")
@click.argument("name")
def pull_model(name: str) -> None:
    """Fetch the model NAME into the cache directory, and check it."""
    from rich.console import Console

    from enginebench_models.pull import pull
    from enginebench_models.registry import registry_entry

    entry, console = registry_entry(name), Console(stderr=True)
    with console.status(f"{name}: looking") as status:

        def tell(stage: str) -> None:
            status.update(f"{name}: {stage}")
            if not console.is_terminal:
                click.echo(f"{name}: {stage}", err=True)

        path = pull(entry, tell)
    click.echo(f"{name} is at {path}")


@models.command("show")
@click.argument("model")
def show_model(model: str) -> None:
    """Show the config, tensors and tokenizer of MODEL (a name or a path)."""
    from rich.console import Console

    from enginebench_models.open import open_model
    from enginebench_models.show import model_tables

    console = Console()
    for table in model_tables(open_model(model)):
        console.print(table)
