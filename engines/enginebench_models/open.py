"""`open_model`: what a name stands for, decided by what is there and by what the bytes say."""

from __future__ import annotations

import os
from pathlib import Path

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.cache import cached_path, is_pulled
from enginebench_models.gguf import MAGIC
from enginebench_models.hub import hub_folder, looks_like_hub_id
from enginebench_models.model import Model
from enginebench_models.open_gguf import open_gguf
from enginebench_models.open_hf import open_hf
from enginebench_models.registry import REGISTRY
from enginebench_models.synthetic import PREFIX, open_synthetic
from enginebench_models.synthetic_shapes import SHAPES

__all__ = ["known_names", "open_model"]


def open_model(name: str) -> Model:
    """Open a registry name, a GGUF file, a Hugging Face folder, a hub id, or `synthetic:NAME`.

    Reads headers only. A ModelError or UnknownNameError says what is wrong and what to type.
    """
    if name.startswith(PREFIX):
        return open_synthetic(name)
    if name in REGISTRY:
        return _open_registered(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return open_hf(path, name)
    if path.exists():
        return _open_file(path, name)
    if looks_like_hub_id(name):
        return open_hf(hub_folder(name), name)
    if os.sep in name or name.endswith(".gguf"):
        raise ModelError(f"model {name!r}: there is no such file or folder")
    raise UnknownNameError("model", name, known_names(), fix="A path or a hub id will do as well.")


def known_names() -> list[str]:
    """Every name that needs no path: registered models and synthetic ones."""
    return [*REGISTRY, *(PREFIX + shape for shape in SHAPES)]


def _open_registered(name: str) -> Model:
    entry = REGISTRY[name]
    if not is_pulled(entry):
        raise ModelError(f"model {name!r} is not on this machine; type `bench models pull {name}`")
    return open_gguf(cached_path(entry), name)


def _open_file(path: Path, name: str) -> Model:
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if start == MAGIC:
        return open_gguf(path, name)
    raise ModelError(
        f"{path}: is no GGUF file (it starts with {start!r}). "
        "Models are GGUF files, or folders with config.json and safetensors"
    )
