"""What the engine runs with: options made definite for this model and this device.

A `PagedConfig` holds no "auto" and never changes. What cannot be known before the weights are
loaded (how many KV blocks fit) is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_models import ModelConfig
from enginebench_paged.dtypes import faster_cpu_dtype
from enginebench_paged.options import OPTIONS
from enginebench_paged.quantization import Quantization, quantization

__all__ = ["PagedConfig", "resolve"]

_GPU_MEMORY_FRACTION = 0.9
_SPECULATIVE_TOKENS = 4
_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True, slots=True)
class PagedConfig:
    """See `options.OPTIONS` for what each means."""

    device: torch.device
    dtype: torch.dtype
    kv_dtype: torch.dtype
    quantization: Quantization | None
    block_size: int
    max_batch: int
    step_tokens: int
    context_length: int
    kv_memory_bytes: int | None
    gpu_memory_fraction: float
    deterministic: bool
    speculative_tokens: int | None
    prefix_cache: bool
    chunked_prefill: bool
    cuda_graphs: bool
    schedule_ahead: bool
    paged_kv: bool
    split_kv: bool
    skinny_products: bool
    early_launch: bool
    fused_ops: bool

    @property
    def dtype_name(self) -> str:
        """As the option names it: bf16, f16 or f32."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    @property
    def kv_dtype_name(self) -> str:
        """As reports name it: fp8, or as `dtype_name`."""
        return "fp8" if self.kv_dtype == torch.float8_e4m3fn else self.dtype_name

    @property
    def sampled_rows(self) -> int:
        """Tokens drawn in a step, at most: guesses are verified in what decodes leave of them."""
        return max(self.max_batch, 1 + (self.speculative_tokens or 0))

    @property
    def max_blocks_per_sequence(self) -> int:
        """The width of a block table."""
        return -(-self.context_length // self.block_size)


def resolve(
    options: Mapping[str, OptionValue], model: ModelConfig, device: torch.device
) -> PagedConfig:
    """Make options definite; those not given take their defaults. UsageError names a bad one."""
    chosen = {option.name: options.get(option.name, option.default) for option in OPTIONS}
    for option in OPTIONS:
        value = chosen[option.name]
        if option.choices and value is not None and value not in option.choices:
            allowed = ", ".join(map(str, option.choices))
            raise UsageError(f"{option.name} is {chosen[option.name]!r}; choose one of {allowed}")
    gpu = device.type == "cuda"
    max_batch = _positive(chosen, "max_batch", 256 if gpu else 32)
    kv_memory_gb = chosen["kv_memory_gb"]
    dtype = _dtype(str(chosen["dtype"]), model, device)
    return PagedConfig(
        device=device,
        dtype=dtype,
        kv_dtype=torch.float8_e4m3fn if chosen["kv_cache_dtype"] == "fp8" else dtype,
        quantization=quantization(chosen),
        block_size=cast(int, chosen["block_size"]),
        max_batch=max_batch,
        step_tokens=_step_tokens(chosen, max_batch, 4096 if gpu else 256),
        context_length=_context_length(chosen, model),
        kv_memory_bytes=None if kv_memory_gb is None else _gigabytes(float(kv_memory_gb)),
        gpu_memory_fraction=_gpu_memory_fraction(chosen, device),
        deterministic=bool(chosen["deterministic"]),
        speculative_tokens=_speculative_tokens(chosen),
        prefix_cache=_prefix_cache(chosen),
        chunked_prefill=bool(chosen["chunked_prefill"]),
        cuda_graphs=_on_gpus("cuda_graphs", chosen, device),
        schedule_ahead=_schedule_ahead(chosen, device),
        paged_kv=bool(chosen["paged_kv"]),
        split_kv=_on_gpus("split_kv", chosen, device),
        skinny_products=_unfixed("skinny_products", chosen, device),
        early_launch=_on_gpus("early_launch", chosen, device),
        fused_ops=_fused_ops(chosen, device),
    )


def _dtype(name: str, model: ModelConfig, device: torch.device) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16
    return faster_cpu_dtype(model.hidden_size, model.intermediate_size)


def _positive(chosen: Mapping[str, OptionValue | None], name: str, default: int) -> int:
    value = chosen[name]
    number = default if value is None else int(value)
    if number < 1:
        raise UsageError(f"{name} is {number}; it must be at least 1")
    return number


def _step_tokens(chosen: Mapping[str, OptionValue | None], max_batch: int, default: int) -> int:
    tokens = _positive(chosen, "step_tokens", max(default, max_batch))
    if tokens < max_batch:
        raise UsageError(
            f"step_tokens is {tokens}, less than max_batch ({max_batch}): each running request"
            " needs a token of every step; raise step_tokens or lower max_batch"
        )
    return tokens


def _context_length(chosen: Mapping[str, OptionValue | None], model: ModelConfig) -> int:
    length = _positive(chosen, "context_length", model.context_length)
    if length > model.context_length:
        raise UsageError(
            f"context_length is {length}; the model was made for at most {model.context_length}"
        )
    return length


def _prefix_cache(chosen: Mapping[str, OptionValue | None]) -> bool:
    """Sequences share blocks, so that without paging there is nothing to share."""
    wanted, paged = chosen["prefix_cache"], bool(chosen["paged_kv"])
    if wanted and not paged:
        raise UsageError("prefix_cache needs paged_kv: sequences share KV blocks; leave one out")
    return paged if wanted is None else bool(wanted)


def _speculative_tokens(chosen: Mapping[str, OptionValue | None]) -> int | None:
    if chosen["speculative"] == "ngram":
        return _positive(chosen, "speculative_tokens", _SPECULATIVE_TOKENS)
    if chosen["speculative_tokens"] is not None:
        raise UsageError("speculative_tokens needs speculative=ngram: who is to guess them?")
    return None


def _schedule_ahead(chosen: Mapping[str, OptionValue | None], device: torch.device) -> bool:
    """Guesses start from the last token, which a step ahead does not know yet."""
    wanted, speculative = chosen["schedule_ahead"], chosen["speculative"] != "off"
    if wanted and speculative:
        raise UsageError("speculative cannot guess ahead of tokens unread: no schedule_ahead")
    return device.type == "cuda" and not speculative if wanted is None else bool(wanted)


def _gigabytes(value: float) -> int:
    if not 0 < value < float("inf"):
        raise UsageError(f"kv_memory_gb is {value:g}; it must be positive")
    return int(value * 1e9)


def _gpu_memory_fraction(chosen: Mapping[str, OptionValue | None], device: torch.device) -> float:
    value = chosen["gpu_memory_fraction"]
    if value is None:
        return _GPU_MEMORY_FRACTION
    if device.type != "cuda":
        raise UsageError("gpu_memory_fraction needs a GPU, and this engine runs on the CPU")
    if chosen["kv_memory_gb"] is not None:
        raise UsageError("kv_memory_gb and gpu_memory_fraction both size the KV cache; give one")
    if not 0 < float(value) <= 1:
        raise UsageError(f"gpu_memory_fraction is {value}; it must be above 0 and at most 1")
    return float(value)


def _on_gpus(name: str, chosen: Mapping[str, OptionValue | None], device: torch.device) -> bool:
    value = chosen[name]
    if value and device.type != "cuda":
        raise UsageError(f"{name} needs a GPU, and this engine runs on the CPU; leave it out")
    return device.type == "cuda" if value is None else bool(value)


def _unfixed(name: str, chosen: Mapping[str, OptionValue | None], device: torch.device) -> bool:
    """What `deterministic` does without: on GPUs by default, else not."""
    if not chosen["deterministic"]:
        return _on_gpus(name, chosen, device)
    if chosen[name]:
        raise UsageError(f"{name} depends on the batch, deterministic does not; leave one out")
    return False


def _fused_ops(chosen: Mapping[str, OptionValue | None], device: torch.device) -> bool:
    fused = _on_gpus("fused_ops", chosen, device)
    if chosen["deterministic"] and device.type == "cuda" and not fused:
        raise UsageError("deterministic needs fused_ops: torch's own norms depend on the batch")
    return fused
