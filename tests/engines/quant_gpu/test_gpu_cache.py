"""The KV cache on a GPU: q8_0 against its twin and against f16, rows for files, context shifts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_cases import relative_error

from enginebench.errors import ModelError
from enginebench_quant.gpu.cache import GpuCache, cache_bytes
from enginebench_quant.gpu.logits import LogitsModel
from enginebench_quant.kernels.gpu import attention_decode, cache_rows, reference
from enginebench_quant.kernels.gpu.sight import Sight

sys.path.insert(0, str(Path(__file__).parents[1] / "quant"))
from quant_models import random_model, with_flags

CPU = torch.device("cpu")
CAPACITY = 140


def quantized(plain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(kv heads, capacity, D) f16 as codes and scales."""
    codes = torch.zeros_like(plain, dtype=torch.int8)
    scales = torch.zeros(*plain.shape[:2], plain.shape[2] // 32, device=plain.device).half()
    span = torch.tensor([0, plain.shape[1]])
    reference.round_rows(plain.clone(), span, codes, scales)
    return codes, scales


def test_rounding_is_by_blocks() -> None:
    plain = torch.randn(2, CAPACITY, 64).half()
    codes, scales = quantized(plain)
    out = torch.full_like(plain, torch.nan)
    reference.expand_rows(codes, scales, torch.tensor([CAPACITY]), out)
    step = plain.float().abs().unflatten(-1, (-1, 32)).amax(-1, keepdim=True) / 127
    off = (out.float() - plain.float()).unflatten(-1, (-1, 32)).abs()
    assert (off <= (0.5 + 127 * 2.0**-10) * step + 1e-6).all()  # scales and numbers are f16


@pytest.mark.parametrize("start, count", [(0, 5), (60, 20), (100, 40)])
def test_rows_of_a_chunk(start, count, device) -> None:
    plain = torch.randn(2, CAPACITY, 64, device=device).half()
    span = torch.tensor([start, count], dtype=torch.int32, device=device)
    made = []
    for home in (cache_rows, reference):
        own = plain.clone()
        codes = torch.zeros_like(plain, dtype=torch.int8)
        scales = torch.zeros(2, CAPACITY, 2, dtype=torch.float16, device=device)
        home.round_rows(own, span, codes, scales, 40)
        home.expand_rows(codes, scales, span[:1] + count // 2, own)
        made.append((own, codes, scales))
    (own, codes, scales), (twin_own, twin_codes, twin_scales) = made
    ties = codes.int() - twin_codes.int()  # of rounding: as good as never, and by one
    assert ties.abs().max() <= 1 and ties.count_nonzero() <= 4
    assert torch.equal(scales, twin_scales)
    assert torch.equal(own[ties == 0], twin_own[ties == 0])


@pytest.mark.parametrize("heads, kv_heads, dim", [(4, 2, 64), (2, 1, 128)])
@pytest.mark.parametrize("past", [0, 33, 120])
def test_decode(heads, kv_heads, dim, past, device) -> None:
    plain = torch.randn(2, kv_heads, CAPACITY, dim, device=device).half()
    pairs = [quantized(part) for part in plain]
    for codes, scales in pairs:
        scales[:, past:] = torch.nan
        codes[:, past:] = 77
    twins = [(codes.clone(), scales.clone()) for codes, scales in pairs]
    qkv = torch.randn((heads + 2 * kv_heads) * dim, device=device)
    cos_sin = torch.randn(CAPACITY, dim, device=device) / 2
    position = torch.tensor([past], dtype=torch.int32, device=device)
    work = attention_decode.AttentionWorkspace(heads, kv_heads, dim, CAPACITY, device, splits=3)
    found, expected = torch.full((2, heads * dim), torch.nan, device=device)
    for home, out, ((k, k_scales), (v, v_scales)) in (
        (attention_decode, found, pairs),
        (reference, expected, twins),
    ):
        home.decode_attention(
            qkv, position, cos_sin, k, v, out, work, scales=(k_scales, v_scales),
            sight=Sight(dim**-0.5),
        )  # fmt: skip
    assert relative_error(found, expected) < 3e-3
    for (codes, scales), (twin_codes, twin_scales) in zip(pairs, twins, strict=True):
        assert (codes.int() - twin_codes.int()).abs().max() <= 1
        assert relative_error(scales[:, : past + 1], twin_scales[:, : past + 1]) < 1e-3
        assert scales[:, past + 1 :].isnan().all()


PROMPT = [int(token) for token in np.random.default_rng(5).integers(0, 211, 50)]
SHAPE = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 64}


def make(kv_type: str) -> LogitsModel:
    model = random_model(with_flags(**SHAPE), "F16")
    return LogitsModel(model, context=64, device=CPU, kv_type=kv_type)


def test_a_model_over_it() -> None:
    """In chunks and token by token alike, and near to f16."""
    plain, chunked, stepped = make("f16"), make("q8_0"), make("q8_0")
    for runner in (plain, chunked):
        runner.forward(PROMPT[:30], 0, want_logits=False)
        runner.forward(PROMPT[30:], 30, want_logits=False)
    for position, token in enumerate(PROMPT):
        stepped.forward([token], position)
    found, expected, other = (
        torch.from_numpy(runner.forward([7], 50).copy()) for runner in (chunked, plain, stepped)
    )
    assert 1e-6 < relative_error(found, expected) < 3e-2
    assert relative_error(other, found) < 1e-2
    assert chunked.cache.n_bytes == 2 * cache_bytes(chunked.program.config, 64, "q8_0")
    assert chunked.cache.n_bytes * 64 == plain.cache.n_bytes * 34


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_rows_for_files(kv_type) -> None:
    full, fresh = make(kv_type), make(kv_type)
    full.forward(PROMPT, 0, want_logits=False)
    for layer in range(2):
        keys, values = full.cache.read_rows(layer, 50)
        assert keys.size == values.size == 50 * full.cache.row_bytes
        fresh.cache.write_rows(layer, keys, values)
    assert np.array_equal(full.forward([7], 50), fresh.forward([7], 50))


@pytest.mark.parametrize("kv_type, limit", [("f16", 2e-2), ("q8_0", 5e-2)])
def test_a_shift_moves_keys_to_where_they_are(kv_type, limit) -> None:
    """In the first layer a key knows its own token only: it is as if it had stood there before."""
    shifted, fresh = make(kv_type), make(kv_type)
    shifted.forward(PROMPT, 0, want_logits=False)
    shifted.shift(4, 20, 50)
    fresh.forward([*PROMPT[:4], *PROMPT[20:]], 0, want_logits=False)
    for part in range(2):
        found, expected = (runner.cache._parts(0)[part] for runner in (shifted, fresh))
        plain = [GpuCache._plain(parts, 0, 34) for parts in (found, expected)]
        assert relative_error(*plain) < limit


def test_other_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="heads of 64, 128, 256 elements; the model's have 16"):
        GpuCache(with_flags(), 64, CPU, "q8_0")
