"""Where pulled models lie: the user's cache directory, or the folder in ENGINEBENCH_CACHE."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from enginebench_models.registry import RegistryEntry

__all__ = ["cache_folder", "cached_path", "is_pulled"]


def cache_folder() -> Path:
    chosen = os.environ.get("ENGINEBENCH_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("enginebench"))


def cached_path(entry: RegistryEntry) -> Path:
    """Where the model's file is or would be."""
    return cache_folder() / "models" / entry.file_name


def is_pulled(entry: RegistryEntry) -> bool:
    """Whether the whole file is there. Its hash was checked when it was pulled, not here."""
    path = cached_path(entry)
    return path.is_file() and path.stat().st_size == entry.size_bytes
