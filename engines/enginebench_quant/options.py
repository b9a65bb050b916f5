"""The options of the quant engine, and what they come to on this machine and for this model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from enginebench.errors import ModelError, UnknownNameError, UsageError
from enginebench.types import Option, OptionValue

if TYPE_CHECKING:
    from enginebench_models import ModelConfig

__all__ = ["AUTO", "CPU_OPTIONS", "GPU_OPTIONS", "KV_TYPES", "OPTIONS", "SAMPLERS", "QuantOptions"]

DEFAULT_CONTEXT: Final = 4096
DEFAULT_KEEP: Final = 4
MOST_DRAFTED: Final = 7  # one less than what is verified in one pass
SAMPLERS: Final = (
    "penalties",
    "dry",
    "temperature",
    "top_k",
    "typical_p",
    "top_p",
    "min_p",
    "xtc",
)
AUTO: Final = "auto"
KV_TYPES: Final = ("f16", "q8_0", "q4_0")
CPU_LEVELS: Final = ("auto", "avx512_vnni", "avx2", "plain")
OPTIONS: Final = (
    Option(
        "context",
        int,
        None,
        f"positions of prompt and output together (None: the model's, at most {DEFAULT_CONTEXT})",
    ),
    Option("threads", int, None, "threads that compute (None: as many as cores it may use)"),
    Option("prompt_cache", bool, True, "reuse what a prompt shares with the request before it"),
    Option(
        "cpu_level",
        str,
        "auto",
        "instructions to use; auto: the best this CPU has",
        choices=CPU_LEVELS,
    ),
    Option(
        "kv_type",
        str,
        "f16",
        "type of the KV cache; q8_0 takes 53 %, q4_0 28 % of the memory of f16",
        choices=KV_TYPES,
    ),
    Option(
        "draft",
        str,
        None,
        "guess tokens ahead and verify several at once: ngram (what the text says again), or a "
        "smaller model with the same vocabulary",
    ),
    Option(
        "context_shift",
        bool,
        False,
        "when the context is full, forget half of it and go on, instead of ending the answer",
    ),
    Option(
        "keep_tokens",
        int,
        DEFAULT_KEEP,
        "tokens at the beginning that a context shift never forgets; at most half of the context",
    ),
    Option("draft_tokens", int, 3, f"most tokens that are guessed ahead, up to {MOST_DRAFTED}"),
    Option(
        "samplers",
        str,
        ";".join(SAMPLERS),
        "the samplers of the chain, in their order; a request that needs one left out is refused",
    ),
    Option(
        "gpu_layers",
        str,
        None,
        "how many of the last layers a GPU computes, with the head, or auto: as many as its memory "
        "holds; the CPU computes the rest (None: all; with hardware cuda:0+cpu, auto)",
    ),
    Option(
        "cuda_graphs",
        bool,
        None,
        "replay a step or a chunk as one CUDA graph (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "early_launch",
        bool,
        None,
        "start a kernel as the one before ends (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "split_kv",
        bool,
        None,
        "cut a context into parts that are attended to side by side (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "fused_ops",
        bool,
        None,
        "norm, activation, rounding and residual inside the products (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "device_sampling",
        bool,
        None,
        "choose tokens on the device where it can (on GPUs: yes)",
        technique="gpu",
    ),
    Option(
        "steps_ahead",
        bool,
        None,
        "queue steps before the tokens ahead of them are read (on GPUs: yes)",
        technique="gpu",
    ),
)
CPU_OPTIONS: Final = ("threads", "cpu_level")
GPU_OPTIONS: Final = tuple(option.name for option in OPTIONS if option.technique == "gpu")


@dataclass(frozen=True, slots=True)
class QuantOptions:
    """Options with every default resolved."""

    context: int
    threads: int
    prompt_cache: bool
    cpu_level: str
    kv_type: str = "f16"
    draft: str | None = None
    draft_tokens: int = 3
    context_shift: bool = False
    keep_tokens: int = DEFAULT_KEEP
    samplers: tuple[str, ...] = SAMPLERS
    gpu_layers: int | Literal["auto"] | None = None
    cuda_graphs: bool | None = None
    early_launch: bool | None = None
    split_kv: bool | None = None
    fused_ops: bool | None = None
    device_sampling: bool | None = None
    steps_ahead: bool | None = None

    @classmethod
    def resolve(cls, chosen: Mapping[str, OptionValue], config: ModelConfig) -> QuantOptions:
        """UsageError or ModelError for what cannot be."""
        values = {option.name: option.default for option in OPTIONS} | dict(chosen)
        threads, context = values["threads"], _context(values["context"], config)
        shifts = bool(values["context_shift"])
        if values["keep_tokens"] != DEFAULT_KEEP and not shifts:
            raise UsageError("keep_tokens is for context_shift=true; without it nothing is dropped")
        return cls(
            context=context,
            threads=_usable_cores() if threads is None else _at_least("threads", threads, 1),
            prompt_cache=bool(values["prompt_cache"]),
            cpu_level=str(values["cpu_level"]),
            kv_type=str(values["kv_type"]),
            draft=None if values["draft"] is None else str(values["draft"]),
            draft_tokens=_draft_tokens(values["draft_tokens"]),
            context_shift=shifts,
            keep_tokens=_keep_tokens(values["keep_tokens"], context) if shifts else 0,
            samplers=_samplers(str(values["samplers"])),
            gpu_layers=_gpu_layers(values["gpu_layers"], config.n_layers),
            **{name: _switch(values[name]) for name in GPU_OPTIONS},
        )


def _context(chosen: OptionValue | None, config: ModelConfig) -> int:
    limit = config.context_length
    if chosen is None:
        return min(limit, DEFAULT_CONTEXT)
    context = _at_least("context", chosen, 2)
    if context > limit:
        raise ModelError(f"context {context} is above the model's context of {limit}; lower it")
    return context


def _gpu_layers(value: OptionValue | None, n_layers: int) -> int | Literal["auto"] | None:
    if value is None or value == AUTO:
        return None if value is None else "auto"
    if not str(value).isdecimal():
        raise UsageError(f"gpu_layers must be a number of layers or {AUTO}; got {value}")
    if int(value) > n_layers:
        raise UsageError(
            f"gpu_layers must be {n_layers} at most, the layers that the model has; got {value}"
        )
    return int(value)


def _switch(value: OptionValue | None) -> bool | None:
    return None if value is None else bool(value)


def _draft_tokens(value: OptionValue | None) -> int:
    count = _at_least("draft_tokens", value or 0, 1)
    if count > MOST_DRAFTED:
        raise UsageError(f"draft_tokens must be {MOST_DRAFTED} at most; got {count}")
    return count


def _keep_tokens(value: OptionValue | None, context: int) -> int:
    count = _at_least("keep_tokens", 0 if value is None else value, 0)
    if count > context // 2:
        raise UsageError(
            f"keep_tokens must be {context // 2} at most, half of the context of {context}; "
            f"got {count}"
        )
    return count


def _samplers(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(";") if name.strip())
    for name in names:
        if name not in SAMPLERS:
            raise UnknownNameError("sampler", name, SAMPLERS)
        if names.count(name) > 1:
            raise UsageError(f"samplers names {name} twice: {value}")
    return names


def _at_least(name: str, value: OptionValue, least: int) -> int:
    if int(value) < least:
        raise UsageError(f"{name} must be {least} or more; got {value}")
    return int(value)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
