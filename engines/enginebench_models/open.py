"""`open_model`: what a name stands for, decided by what is there and what the bytes say."""

from __future__ import annotations

from pathlib import Path

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.cache import cached_path, is_pulled
from enginebench_models.gguf import MAGIC
from enginebench_models.model import Model
from enginebench_models.open_gguf import open_gguf
from enginebench_models.registry import REGISTRY

__all__ = ["open_model"]


def open_model(name: str) -> Model:
    """Open a registry name or a path to a GGUF file.

    Reads headers only. A ModelError says what is wrong and what to type.
    """
    if name in REGISTRY:
        return _open_registered(name)
    path = Path(name)
    if path.is_file():
        return _open_file(path, name)
    raise UnknownNameError("model", name, REGISTRY)


def _open_registered(name: str) -> Model:
    entry = REGISTRY[name]
    if not is_pulled(entry):
        raise ModelError(f"model {name!r} is not on this machine; type `bench models pull {name}`")
    return open_gguf(cached_path(entry), name)


def _open_file(path: Path, name: str) -> Model:
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start == MAGIC:
        return open_gguf(path, name)
    raise ModelError(f"{path}: is no GGUF file (it starts with {start!r})")
