"""The relatives of llama on the CPU, held to `transformers`; also with quantized weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_relatives import RELATIVES, relative_config, save_random
from numpy.typing import NDArray

from enginebench_models import open_model
from enginebench_models.conversion import convert, open_source
from enginebench_models.mixes import find_mix
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel

Logits = NDArray[np.float32]
TOLERANCE = 1e-2  # of the largest logit: keys and values are kept in f16
PROMPT, DECODED, VERIFIED = 45, 12, 5


def tokens() -> list[int]:
    return np.random.default_rng(0).integers(3, 500, PROMPT + DECODED + VERIFIED).tolist()


def logits(path: Path, kernels: Kernels) -> Logits:
    """Of every token: as one prompt, then token by token, then several verified at once."""
    model, ids = QuantModel(open_model(str(path)), kernels, context=128, threads=2), tokens()
    found = [row.copy() for row in model.forward_each(ids[:PROMPT], 0)]
    for position in range(PROMPT, PROMPT + DECODED):
        row = model.forward([ids[position]], position)
        assert row is not None
        found.append(row.copy())
    found += list(model.forward_rows(ids[-VERIFIED:], PROMPT + DECODED).copy())
    model.close()
    return np.array(found)


def assert_close(found: Logits, expected: Logits, tolerance: float) -> None:
    """Same values up to the tolerance, and the same best token where the best is no near-tie."""
    allowed = tolerance * np.abs(expected).max()
    assert np.abs(found - expected).max() < allowed
    second, best = np.sort(expected, -1)[:, -2:].T
    clear = best - second > 2 * allowed
    assert clear.mean() > 0.5
    assert (found.argmax(-1) == expected.argmax(-1))[clear].all()


@pytest.mark.parametrize("name", RELATIVES)
def test_logits_are_those_of_transformers(
    name: str, best_kernels: Kernels, tiny_hf: Callable[..., Path], tmp_path: Path
) -> None:
    model = save_random(relative_config(name), tmp_path / name, tiny_hf())
    with torch.inference_mode():
        expected = model(torch.tensor([tokens()]), use_cache=False).logits[0].numpy()
    convert(open_source(str(tmp_path / name)), tmp_path / "f32.gguf", find_mix("f32"), threads=1)
    found = logits(tmp_path / name, best_kernels)
    assert_close(found, expected, TOLERANCE)
    assert np.array_equal(logits(tmp_path / "f32.gguf", best_kernels), found)


@pytest.mark.parametrize("name", ["qwen2moe", "mixtral", "gemma2", "phi3"])
def test_quantized_weights_are_computed_on(
    name: str, best_kernels: Kernels, tiny_hf: Callable[..., Path], tmp_path: Path
) -> None:
    """Against the same weights as floats: what differs is how activations are rounded."""
    save_random(relative_config(name), tmp_path / name, tiny_hf())
    convert(open_source(str(tmp_path / name)), tmp_path / "q.gguf", find_mix("q4_0"), threads=1)
    convert(open_source(str(tmp_path / "q.gguf")), tmp_path / "f.gguf", find_mix("f32"), threads=1)
    found, expected = (logits(tmp_path / file, best_kernels) for file in ("q.gguf", "f.gguf"))
    cosine = (found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum())
    assert cosine > 0.98
