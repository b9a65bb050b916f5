"""The engine's options as users meet them. Imports nothing heavy: the plugin lists them at
start-up.

`config.resolve` turns them into a `PagedConfig`, where every "auto" has become a fact.
"""

from __future__ import annotations

from enginebench.types import Option

__all__ = ["DTYPES", "KV_DTYPES", "OPTIONS", "QUANTIZATIONS"]

DTYPES = ("auto", "bf16", "f16", "f32")
KV_DTYPES = ("auto", "fp8")
QUANTIZATIONS = ("none", "int8", "int4", "fp8")

OPTIONS = (
    Option(
        "tensor_parallel",
        int,
        None,
        "processes that compute the model together, one a GPU (all of --hardware's GPUs, else 1)",
    ),
    Option(
        "replicas",
        int,
        None,
        "whole engines behind one port, each with its own tensor_parallel processes (1)",
    ),
    Option("block_size", int, 16, "tokens in a KV block, a power of two", (16, 32, 64, 128)),
    Option("max_batch", int, None, "most requests that run at once (GPU 256, CPU 32)"),
    Option("step_tokens", int, None, "most tokens computed in a step (GPU 4096, CPU 256)"),
    Option("context_length", int, None, "longest prompt plus output (as the model says)"),
    Option(
        "kv_memory_gb",
        float,
        None,
        "GB of KV cache (GPU: what gpu_memory_fraction leaves; CPU: what max_batch contexts need,"
        " at most an eighth of the free memory)",
    ),
    Option(
        "gpu_memory_fraction",
        float,
        None,
        "share of the GPU's memory that the engine may fill (0.9)",
    ),
    Option(
        "dtype", str, "auto", "of weights and KV (GPU bf16; CPU the faster of bf16 and f32)", DTYPES
    ),
    Option(
        "kv_cache_dtype",
        str,
        "auto",
        "of keys and values: as dtype, or fp8 (e4m3, a scale per head; half of bf16's memory)",
        KV_DTYPES,
    ),
    Option(
        "deterministic",
        bool,
        False,
        "the same greedy tokens and logprobs whatever runs beside a request, cached or not",
    ),
    Option(
        "quantization",
        str,
        "none",
        "of weights, at load: int8 or int4 (weights alone), fp8 (products too, of many rows)",
        QUANTIZATIONS,
    ),
    Option(
        "quantization_group",
        int,
        None,
        "int8, int4: columns of a row that share a scale (128)",
        (32, 64, 128),
    ),
    Option(
        "quantization_zeros",
        bool,
        None,
        "int8, int4: a zero beside each scale, asymmetric (int4: yes, int8: no)",
    ),
    Option(
        "speculative",
        str,
        "off",
        "ngram: guess that a stretch of the text is repeated, verify several tokens in one step",
        ("off", "ngram"),
    ),
    Option(
        "speculative_tokens",
        int,
        None,
        "most guesses of a request in a step (with speculative=ngram: 4)",
    ),
    Option(
        "prefix_cache",
        bool,
        None,
        "reuse the KV blocks of equal prefixes (with paged_kv: yes)",
        technique="everywhere",
    ),
    Option(
        "chunked_prefill",
        bool,
        True,
        "prompts in chunks, in the same steps as decodes",
        technique="everywhere",
    ),
    Option(
        "cuda_graphs",
        bool,
        None,
        "replay decode steps as CUDA graphs (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "schedule_ahead",
        bool,
        None,
        "plan a step before the ids of the last one arrived (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "paged_kv",
        bool,
        True,
        "KV blocks as a sequence grows; off: a whole context's when it starts, as before paging",
        technique="everywhere",
    ),
    Option(
        "split_kv",
        bool,
        None,
        "long contexts over several programs (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "skinny_products", bool, None, "own kernels for few rows (on GPUs: yes)", technique="gpu"
    ),
    Option(
        "early_launch",
        bool,
        None,
        "start a kernel as the one before ends (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "fused_ops", bool, None, "one kernel where several would do (on GPUs: yes)", technique="gpu"
    ),
)
