"""A GGUF model written as a Hugging Face folder is the same model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginebench.errors import ModelError
from enginebench_models import Model, RopeScaling, Tensor, open_model
from enginebench_peers.hf_files import hf_folder, in_halves, write_hf


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path))


def test_the_same_weights_shape_and_tokens(tiny_gguf: Callable[..., Path]) -> None:
    file = open_model(str(tiny_gguf("q4_1")))
    folder = open_model(str(hf_folder(file.info)))
    assert folder.weights.keys() == file.weights.keys()
    for name, tensor in file.weights.items():
        np.testing.assert_array_equal(folder.weights[name].dequantize(), expected(tensor, file))
    shape = replace(file.config, rope_pairs="halves")
    assert replace(folder.config, rms_norm_eps=0.0, rope_theta=0.1) == replace(
        shape, rms_norm_eps=0.0, rope_theta=0.1
    )
    assert folder.config.rope_theta == pytest.approx(file.config.rope_theta)
    assert folder.config.rms_norm_eps == pytest.approx(file.config.rms_norm_eps)
    text = "Hello <|im_end|> \u00e9\u4f60 12"
    assert folder.tokenizer.eos_ids == file.tokenizer.eos_ids
    for parse in (True, False):
        ids = file.tokenizer.encode(text, parse_special=parse)
        assert folder.tokenizer.encode(text, parse_special=parse) == ids
    messages = [{"role": "user", "content": "Hi"}]
    assert file.chat_template is not None
    assert folder.chat_template is not None
    assert folder.chat_template.render(messages) == file.chat_template.render(messages)


def expected(tensor: Tensor, file: Model) -> Any:
    values = in_halves(tensor, file)
    return values.astype(np.float16) if len(tensor.shape) == 2 else values


def test_rows_that_turn_together_come_half_a_head_apart(tiny_gguf: Callable[..., Path]) -> None:
    file = open_model(str(tiny_gguf("f32")))
    assert file.config.rope_pairs == "adjacent"
    before = file.weights["blk.0.attn_k.weight"].dequantize()
    after = in_halves(file.weights["blk.0.attn_k.weight"], file)
    half = file.config.head_dim // 2
    for row in range(half):
        np.testing.assert_array_equal(after[row], before[2 * row])
        np.testing.assert_array_equal(after[row + half], before[2 * row + 1])
    value = file.weights["blk.0.attn_v.weight"]
    np.testing.assert_array_equal(in_halves(value, file), value.dequantize())


def test_a_folder_is_itself_and_others_are_written_once(
    tiny_hf: Callable[..., Path], tiny_gguf: Callable[..., Path]
) -> None:
    path = tiny_hf("f32")
    assert hf_folder(open_model(str(path)).info) == path
    info = open_model(str(tiny_gguf("q4_1"))).info
    written = hf_folder(info) / "model.safetensors"
    before = written.stat().st_mtime_ns
    assert hf_folder(info) == written.parent
    assert written.stat().st_mtime_ns == before


def test_a_list_of_rope_factors_has_no_place_in_a_folder(
    tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model = open_model(str(tiny_gguf("f32")))
    factors = RopeScaling("factors", frequency_factors=(1.0,) * (model.config.head_dim // 2))
    stretched = replace(model, config=replace(model.config, rope_scaling=factors))
    with pytest.raises(ModelError, match="has no counterpart"):
        write_hf(stretched, tmp_path / "out")
