"""Tiny models of each architecture, for the CPU alone and on one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_references import Reference, make_reference


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is a GPU, and with one thread: two would wait for each other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def references(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[..., Path]
) -> Callable[[str], Reference]:
    """`references("qwen2")`: made when first asked for."""
    made: dict[str, Reference] = {}

    def get(architecture: str) -> Reference:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = make_reference(architecture, folder, tiny_hf())
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def logits_of(references: Callable[[str], Reference]) -> Callable[..., torch.Tensor]:
    """`logits_of("qwen2", tokens, torch.float32)`: those of `transformers` after each token."""
    import transformers

    @cache
    def model(architecture: str, dtype: torch.dtype) -> Any:
        folder = references(architecture).model.info.name
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )

    def logits(architecture: str, tokens: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = model(architecture, dtype)(
                torch.tensor([tokens]), use_cache=False
            ).logits[0]
        return found

    return logits
