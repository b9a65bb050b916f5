"""Options become a config without any "auto", or an error that names the option."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_models import ModelConfig
from enginebench_paged import dtypes
from enginebench_paged.cache import block_bytes, cpu_block_count
from enginebench_paged.config import resolve
from enginebench_paged.options import OPTIONS

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MODEL = ModelConfig("llama", 2, 64, 128, 4, 2, 16, 512, 300)


def config(device: torch.device = CPU, **options: OptionValue) -> Any:
    return resolve({"dtype": "f32", **options}, MODEL, device)


def test_defaults_differ_between_cpu_and_gpu() -> None:
    cpu, gpu = config(), resolve({}, MODEL, GPU)
    assert (cpu.max_batch, cpu.step_tokens) == (32, 256)
    assert (gpu.max_batch, gpu.step_tokens) == (256, 4096)
    assert not (cpu.cuda_graphs or cpu.schedule_ahead)
    assert gpu.cuda_graphs and gpu.schedule_ahead
    assert gpu.dtype == torch.bfloat16
    assert cpu.context_length == 300
    assert cpu.max_blocks_per_sequence == 19


def test_without_paging_nothing_is_shared() -> None:
    assert config().prefix_cache
    assert not config(paged_kv=False).prefix_cache


def test_a_large_batch_brings_its_own_budget() -> None:
    assert config(max_batch=700).step_tokens == 700


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 24}, "block_size is 24; choose one of 16, 32, 64, 128"),
        ({"dtype": "int8"}, "dtype is 'int8'; choose one of auto, bf16, f16, f32"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"step_tokens": 8, "max_batch": 16}, "less than max_batch"),
        ({"context_length": 301}, "made for at most 300"),
        ({"kv_memory_gb": -1.0}, "kv_memory_gb is -1"),
        ({"gpu_memory_fraction": 0.5}, "gpu_memory_fraction needs a GPU"),
        ({"cuda_graphs": True}, "cuda_graphs needs a GPU"),
        ({"fused_ops": True}, "fused_ops needs a GPU"),
        ({"quantization": "int5"}, "quantization is 'int5'; choose one of none, int8, int4, fp8"),
        ({"quantization": "int4", "quantization_group": 48}, "choose one of 32, 64, 128"),
        ({"quantization_group": 64}, "quantization is none; it is for int8 and int4"),
        ({"quantization": "fp8", "quantization_zeros": True}, "quantization is fp8"),
        ({"kv_cache_dtype": "fp16"}, "choose one of auto, fp8"),
        ({"speculative": "ngram", "schedule_ahead": True}, "cannot guess ahead of tokens unread"),
        ({"speculative_tokens": 3}, "speculative_tokens needs speculative=ngram"),
        ({"speculative": "ngram", "speculative_tokens": 0}, "speculative_tokens is 0"),
        ({"deterministic": True, "skinny_products": True}, "skinny_products depends on the batch"),
        ({"paged_kv": False, "prefix_cache": True}, "prefix_cache needs paged_kv"),
    ],
)
def test_bad_values_are_named(options: dict[str, OptionValue], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**options)


def test_the_gpu_memory_fraction_is_a_fraction_and_alone() -> None:
    with pytest.raises(UsageError, match="gpu_memory_fraction is 1"):
        config(GPU, gpu_memory_fraction=1.5)
    with pytest.raises(UsageError, match="give one"):
        config(GPU, gpu_memory_fraction=0.5, kv_memory_gb=1.0)


def test_no_option_is_ignored() -> None:
    other: dict[str, OptionValue] = {
        "block_size": 32,
        "max_batch": 3,
        "step_tokens": 777,
        "context_length": 99,
        "kv_memory_gb": 0.5,
        "gpu_memory_fraction": 0.5,
        "dtype": "f16",
        "deterministic": True,
        "speculative": "ngram",
        "prefix_cache": False,
        "chunked_prefill": False,
        "cuda_graphs": False,
        "schedule_ahead": False,
        "paged_kv": False,
        "split_kv": False,
        "skinny_products": False,
        "early_launch": False,
        "fused_ops": False,
        "kv_cache_dtype": "fp8",
        "quantization": "int8",
    }
    of_quantization = {"quantization_group": 64, "quantization_zeros": True}
    of_guesses = {"speculative_tokens": 3}
    of_processes = {"tensor_parallel", "replicas"}  # no engine's, but of how many there are
    assert {*other, *of_quantization, *of_guesses, *of_processes} == {
        option.name for option in OPTIONS
    }
    plain = resolve({}, MODEL, GPU)
    for name, value in other.items():
        assert resolve({name: value}, MODEL, GPU) != plain, name
    int8 = resolve({"quantization": "int8"}, MODEL, GPU)
    for name, value in of_quantization.items():
        assert resolve({"quantization": "int8", name: value}, MODEL, GPU) != int8, name
    guessing = {"speculative": "ngram"}
    for name, value in of_guesses.items():
        assert resolve({**guessing, name: value}, MODEL, GPU) != resolve(guessing, MODEL, GPU), name


def test_guesses_have_rows_even_where_one_request_runs() -> None:
    assert config(speculative="ngram", max_batch=1).sampled_rows == 5
    assert config(speculative="ngram", max_batch=9, speculative_tokens=2).sampled_rows == 9
    assert not resolve({"speculative": "ngram"}, MODEL, GPU).schedule_ahead


def test_kv_memory_decides_how_many_blocks_there_are() -> None:
    one = block_bytes(config(), MODEL)
    assert one == 2 * 2 * 2 * 16 * 16 * 4  # keys and values, layers, KV heads, tokens, dims, bytes
    assert cpu_block_count(config(kv_memory_gb=5.5 * one / 1e9), MODEL) == 5
    assert cpu_block_count(config(kv_memory_gb=100.0), MODEL) == 32 * 19  # all that could be used
    with pytest.raises(UsageError, match="one block needs"):
        cpu_block_count(config(kv_memory_gb=0.5 * one / 1e9), MODEL)


def test_the_faster_dtype_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for faster in (torch.bfloat16, torch.float32):

        def race(weights: Any, batch: int, faster: torch.dtype = faster) -> Any:
            return {dtype: 1.0 if dtype == faster else 1.5 for dtype in weights}

        monkeypatch.setattr(dtypes, "_race", race)
        assert resolve({}, MODEL, CPU).dtype == faster


def test_the_race_is_run_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    assert dtypes.faster_cpu_dtype(256, 512) in (torch.bfloat16, torch.float32)
    assert torch.get_num_threads() == before
