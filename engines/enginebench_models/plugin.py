"""What this package adds to `bench`: it resolves local models, and its commands."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import click

from enginebench import hookimpl
from enginebench.types import ModelInfo
from enginebench_models.cli import models
from enginebench_models.cli_quantize import quantize_command

__all__ = ["enginebench_commands", "enginebench_resolve_model"]


@hookimpl
def enginebench_resolve_model(name: str) -> ModelInfo | None:
    """None for names that mean nothing here and resemble nothing that does."""
    from pathlib import Path

    from enginebench_models.hub import looks_like_hub_id
    from enginebench_models.open import known_names, open_model
    from enginebench_models.synthetic import PREFIX

    ours = name in known_names() or name.startswith(PREFIX) or looks_like_hub_id(name)
    if ours or Path(name).expanduser().exists() or "/" in name or name.endswith(".gguf"):
        return open_model(name).info
    if difflib.get_close_matches(name, known_names(), n=1, cutoff=0.6):
        return open_model(name).info  # raises, offering the nearest names
    return None


@hookimpl
def enginebench_commands() -> Sequence[click.Command]:
    return [models, quantize_command]
