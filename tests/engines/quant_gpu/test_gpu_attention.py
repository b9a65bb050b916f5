"""Attention of one token and of a chunk, rotation and the cache, against plain torch."""

import pytest
import torch
from packed_cases import relative_error

from enginebench_quant.kernels.gpu import (
    attention_decode,
    attention_prefill,
    elementwise,
    reference,
)
from enginebench_quant.kernels.gpu.sight import Sight
from enginebench_quant.kernels.gpu.vector import empty_vector, unpack_vector

CAPACITY = 200
HEADS = [(4, 2, 16), (8, 2, 64), (6, 2, 32), (3, 3, 24), (9, 3, 64)]  # query heads, key heads, size


class Case:
    def __init__(self, heads: int, kv_heads: int, dim: int, normed: bool, device) -> None:
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim
        self.cache = torch.randn(2, kv_heads, CAPACITY, dim, device=device).half()
        self.cos_sin = torch.randn(CAPACITY, dim, device=device) / 2
        self.norms = {}
        if normed:
            norms = torch.rand(2, dim, device=device) + 0.5
            self.norms = {"q_norm": norms[0], "k_norm": norms[1], "eps": 1e-6}

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.dim


@pytest.mark.parametrize("heads, kv_heads, dim", HEADS)
@pytest.mark.parametrize("past, splits, normed", [(0, 4, False), (33, 4, True), (150, 3, False)])
def test_decode(heads, kv_heads, dim, past, splits, normed, device) -> None:
    case = Case(heads, kv_heads, dim, normed, device)
    twin = case.cache.clone()
    case.cache[:, :, past:] = torch.nan  # nothing beyond the past may be read
    qkv = torch.randn(case.width, device=device)
    position = torch.tensor([past], dtype=torch.int32, device=device)
    work = attention_decode.AttentionWorkspace(
        heads, kv_heads, dim, CAPACITY, device, splits=splits
    )
    expected = torch.full((heads * dim,), torch.nan, device=device)
    reference.decode_attention(qkv, position, case.cos_sin, *twin, expected, None, **case.norms)
    for _ in range(2):  # a second launch finds the counters as the first left them
        found = torch.full((heads * dim,), torch.nan, device=device)
        attention_decode.decode_attention(
            qkv, position, case.cos_sin, *case.cache, found, work, **case.norms
        )
        assert relative_error(found, expected) < 2e-3
    assert work.arrived.count_nonzero() == 0
    assert relative_error(case.cache[:, :, past], twin[:, :, past]) < 1e-3


@pytest.mark.parametrize("heads, kv_heads, dim", [(8, 2, 64), (6, 2, 32)])
def test_decode_quantizes_for_the_next_product(heads, kv_heads, dim, device) -> None:
    case = Case(heads, kv_heads, dim, False, device)
    twin = case.cache.clone()
    qkv = torch.randn(case.width, device=device)
    position = torch.tensor([150], dtype=torch.int32, device=device)
    work = attention_decode.AttentionWorkspace(heads, kv_heads, dim, CAPACITY, device)
    found, expected = (empty_vector(heads * dim, device) for _ in range(2))
    attention_decode.decode_attention(qkv, position, case.cos_sin, *case.cache, found, work)
    reference.decode_attention(qkv, position, case.cos_sin, *twin, expected, None)
    assert relative_error(unpack_vector(found), unpack_vector(expected)) < 1e-2


def test_heads_without_whole_blocks_are_not_quantized(device) -> None:
    case = Case(4, 2, 16, False, device)
    work = attention_decode.AttentionWorkspace(4, 2, 16, CAPACITY, device)
    position = torch.zeros(1, dtype=torch.int32, device=device)
    qkv = torch.randn(case.width, device=device)
    with pytest.raises(ValueError, match="heads of 16 are not written as int8"):
        attention_decode.decode_attention(
            qkv, position, case.cos_sin, *case.cache, empty_vector(64, device), work
        )


def test_one_split_and_one_head_a_program(device) -> None:
    case = Case(8, 2, 16, False, device)
    twin = case.cache.clone()
    qkv = torch.randn(case.width, device=device)
    position = torch.tensor([70], dtype=torch.int32, device=device)
    work = attention_decode.AttentionWorkspace(8, 2, 16, CAPACITY, device, heads=1, splits=1)
    found, expected = torch.full((2, 128), torch.nan, device=device)
    attention_decode.decode_attention(qkv, position, case.cos_sin, *case.cache, found, work)
    reference.decode_attention(qkv, position, case.cos_sin, *twin, expected, None)
    assert relative_error(found, expected) < 2e-3
    assert torch.equal(case.cache, twin)


@pytest.mark.parametrize("heads, kv_heads, dim", HEADS)
@pytest.mark.parametrize("start, count, normed", [(0, 20, False), (90, 37, True), (100, 1, False)])
def test_chunk(heads, kv_heads, dim, start, count, normed, device) -> None:
    case = Case(heads, kv_heads, dim, normed, device)
    twin = case.cache.clone()
    case.cache[:, :, start:] = torch.nan
    tokens = 40
    span = torch.tensor([start, count], dtype=torch.int32, device=device)
    qkv = torch.randn(tokens, case.width, device=device)
    bias = torch.randn(case.width, device=device)
    found = torch.zeros(tokens, heads, dim, dtype=torch.float16, device=device)
    expected = found.clone()
    elementwise.rope_and_cache(qkv, span, case.cos_sin, *case.cache, found, bias=bias, **case.norms)
    reference.rope_and_cache(qkv, span, case.cos_sin, *twin, expected, bias=bias, **case.norms)
    end = start + count
    assert relative_error(found, expected) < 1e-3
    assert relative_error(case.cache[:, :, :end], twin[:, :, :end]) < 1e-3
    assert case.cache[:, :, end:].isnan().all(), "tokens beyond the count were stored"
    out, twin_out = torch.full((2, tokens, heads, dim), 7.0, device=device)
    attention_prefill.prefill_attention(expected, span, *case.cache, out)
    reference.prefill_attention(expected, span, *twin, twin_out)
    assert relative_error(out[:count], twin_out[:count]) < 2e-3
    assert (out[count:] == 7).all()


def test_heads_of_a_program_divide_the_group(device) -> None:
    with pytest.raises(ValueError, match="2 heads do not divide a group of 3"):
        attention_decode.AttentionWorkspace(6, 2, 16, CAPACITY, device, heads=2)


@pytest.mark.parametrize("past", [5, 150])
@pytest.mark.parametrize("sight", [Sight(0.2, window=40), Sight(0.2, window=9, softcap=4.0)])
def test_windows_and_soft_caps(sight, past, device) -> None:
    heads, kv_heads, dim = 4, 2, 32
    case = Case(heads, kv_heads, dim, False, device)
    twin = case.cache.clone()
    case.cache[:, :, past:] = torch.nan
    if sight.window is not None:
        case.cache[:, :, : max(0, past - sight.window + 1)] = torch.nan  # nothing before it either
    qkv = torch.randn(case.width, device=device)
    position = torch.tensor([past], dtype=torch.int32, device=device)
    work = attention_decode.AttentionWorkspace(heads, kv_heads, dim, CAPACITY, device, splits=3)
    found, expected = torch.full((2, heads * dim), torch.nan, device=device)
    options = {"sight": sight}
    args = qkv, position, case.cos_sin
    attention_decode.decode_attention(*args, *case.cache, found, work, early=False, **options)
    reference.decode_attention(*args, *twin, expected, None, **options)
    assert relative_error(found, expected) < 2e-3
    tokens = 33
    span = torch.tensor([past, tokens], dtype=torch.int32, device=device)
    q = torch.randn(tokens, heads, dim, device=device).half()
    out, twin_out = torch.full((2, tokens, heads, dim), 7.0, device=device)
    attention_prefill.prefill_attention(q, span, *twin, out, **options)
    reference.prefill_attention(q, span, *twin, twin_out, **options)
    assert relative_error(out, twin_out) < 2e-3
