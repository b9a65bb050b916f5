"""What can be switched off: the same results without it, by other kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from enginebench_models import ModelConfig
from enginebench_paged.cache import KVCache
from enginebench_paged.inputs import Sizes, device_views
from enginebench_paged.kernels import configs
from enginebench_paged.model import rotary_table
from enginebench_paged.step_kernels import KernelStep
from enginebench_paged.unfused_step import UnfusedStep

CPU = torch.device("cpu")
MODEL = ModelConfig("qwen3", 1, 64, 128, 4, 2, 16, 512, 64, rms_norm_eps=1e-6, qk_norm=True)
TOKENS = 5


@pytest.fixture(autouse=True)
def all_techniques() -> Iterator[None]:
    yield
    configs.switch(configs.Techniques())


def test_techniques_change_the_chips_row() -> None:
    everything = configs.chip(CPU)
    configs.switch(configs.Techniques(split_kv=False, skinny_products=False, early_launch=False))
    bare = configs.chip(CPU)
    assert everything.decode.programs_per_sm > 0
    assert bare.decode.programs_per_sm == 0
    assert (bare.gemv, bare.dependent_launch) == ((), False)
    assert bare.prefill == everything.prefill


def _step(kind: type[KernelStep]) -> tuple[KernelStep, KVCache]:
    """A prompt of TOKENS tokens in one sequence, whose blocks are 1 and 0."""
    sizes = Sizes(TOKENS, 1, 1, decodes=0, max_query_len=TOKENS)
    x = device_views(torch.zeros(sizes.words, dtype=torch.int64), sizes)
    x.positions.copy_(torch.arange(TOKENS))
    x.cache_slots.copy_(torch.tensor([4, 5, 6, 7, 0]))
    x.context_lens.fill_(TOKENS)
    x.query_starts.copy_(torch.tensor([0, TOKENS]))
    keys, values = torch.zeros(2, 1, 2, 2, 4, MODEL.head_dim).unbind(0)
    cache = KVCache(keys, values, keys[0].dtype)
    tables = torch.tensor([[1, 0]], dtype=torch.int32)
    return kind(MODEL, rotary_table(MODEL, 64, CPU), x, tables, cache), cache


def test_unfused_operations_give_what_the_fused_ones_give() -> None:
    torch.manual_seed(3)
    fused, cache = _step(KernelStep)
    unfused, other = _step(UnfusedStep)
    x, residual = torch.randn(2, TOKENS, 64)
    weight, q_norm, k_norm = torch.rand(64), torch.rand(16), torch.rand(16)
    for name, arguments in (
        ("norm", (residual, weight)),
        ("add_norm", (x, residual, weight)),
        ("gate", (torch.randn(TOKENS, 256),)),
        ("attention", (torch.randn(TOKENS, 8, 16), 0, q_norm, k_norm)),
    ):
        expected = getattr(fused, name)(*arguments)
        torch.testing.assert_close(getattr(unfused, name)(*arguments), expected)
    torch.testing.assert_close(other.keys, cache.keys)
    torch.testing.assert_close(other.values, cache.values)
