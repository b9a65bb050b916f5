"""Models that tests share: the real one where it was pulled, and tiny random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import triton_on_cpu

from enginebench_models.cache import cached_path, is_pulled
from enginebench_models.registry import registry_entry
from enginebench_models.synthetic_files import write_synthetic_gguf, write_synthetic_hf

__all__ = ["triton_on_cpu"]  # imported here, before any test module, for what it sets


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, from the user's cache."""
    entry = registry_entry("smollm2-135m")
    if not is_pulled(entry):
        pytest.skip(f"{entry.name} is not pulled; type `bench models pull {entry.name}`")
    return cached_path(entry)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_gguf("q4_1")` writes (once) a tiny random llama as GGUF and gives its path.

    2 layers, hidden 64, 4 heads, 2 KV heads, 512 tokens, ChatML template.
    """
    folder = tmp_path_factory.mktemp("tiny-gguf")

    def write(type: str = "q4_1") -> Path:
        path = folder / f"tiny-{type}.gguf"
        if not path.exists():
            write_synthetic_gguf(f"synthetic:tiny@{type}", path)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_hf("f32")` writes (once) the same model as a Hugging Face folder and gives its path."""
    folder = tmp_path_factory.mktemp("tiny-hf")

    def write(type: str = "f32") -> Path:
        path = folder / f"tiny-{type}"
        if not path.exists():
            write_synthetic_hf(f"synthetic:tiny@{type}", path)
        return path

    return write
