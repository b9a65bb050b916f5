"""Tiny models of each architecture, for the CPU alone and on one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
def exact_logits(references: Callable[[str], Reference]) -> Callable[..., torch.Tensor]:
    """`exact_logits("qwen2", tokens)`: those of `transformers` after each token, in float32."""
    import transformers

    def logits(architecture: str, tokens: tuple[int, ...]) -> torch.Tensor:
        folder = references(architecture).model.info.name
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            found: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
        return found

    return logits
