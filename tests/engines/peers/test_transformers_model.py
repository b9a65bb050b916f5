"""The same model reaches transformers from a file, a folder, and a folder made of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginebench_models import Model, ModelConfig, RopeScaling, open_model
from enginebench_models.synthetic_files import write_synthetic_gguf, write_synthetic_hf
from enginebench_models.synthetic_shapes import SHAPES
from enginebench_peers.hf_files import hf_folder

pytestmark = [pytest.mark.peer, pytest.mark.slow]
TinyModel = Callable[..., Path]
PROMPT = [40, 50, 60, 70, 80, 90, 100, 111]


@pytest.fixture(scope="module", autouse=True)
def torch() -> Any:
    pytest.importorskip("transformers", reason='pip install "enginebench[peers]"')
    return pytest.importorskip("torch", reason='pip install "enginebench[peers]"')


def logits(torch: Any, model: Model) -> Any:
    """Of every position of PROMPT, computed in float32."""
    from enginebench_peers.transformers_model import load_transformers_model

    net = load_transformers_model(model, dtype="float32", attention="sdpa")
    with torch.inference_mode():
        return net(torch.tensor([PROMPT])).logits


def test_a_folder_is_the_file(torch: Any, tiny_gguf: TinyModel, tiny_hf: TinyModel) -> None:
    """transformers reads folders by itself; files are dequantized for it."""
    from_file = logits(torch, open_model(str(tiny_gguf("f32"))))
    from_folder = logits(torch, open_model(str(tiny_hf("f32"))))
    torch.testing.assert_close(from_file, from_folder, rtol=1e-5, atol=1e-5)


def test_the_folder_made_of_a_file_is_the_file(
    torch: Any, tiny_gguf: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM, SGLang and TGI are given, on weights that float16 holds exactly."""
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path))
    model = open_model(str(tiny_gguf("f16")))
    made = open_model(str(hf_folder(model.info)))
    torch.testing.assert_close(logits(torch, model), logits(torch, made), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        replace(SHAPES["tiny"], architecture="qwen2", attention_bias=True),
        replace(SHAPES["tiny"], architecture="qwen3", qk_norm=True, tie_word_embeddings=False),
        replace(SHAPES["tiny"], rope_scaling=RopeScaling("llama3", original_context_length=64)),
    ],
)
def test_other_shapes(
    torch: Any, shape: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Biases, norms of queries and keys, heads of their own and stretched frequencies."""
    monkeypatch.setitem(SHAPES, "shape", shape)
    write_synthetic_gguf("synthetic:shape@f32", tmp_path / "m.gguf")
    write_synthetic_hf("synthetic:shape@f32", tmp_path / "m")
    from_file = logits(torch, open_model(str(tmp_path / "m.gguf")))
    from_folder = logits(torch, open_model(str(tmp_path / "m")))
    torch.testing.assert_close(from_file, from_folder, rtol=1e-5, atol=1e-5)
