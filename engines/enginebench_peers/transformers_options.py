"""The options of the two transformers engines. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from enginebench.errors import UsageError
from enginebench.types import Option, OptionValue

if TYPE_CHECKING:
    from enginebench_models import ModelConfig

__all__ = ["BATCHING_OPTIONS", "GENERATE_OPTIONS", "context_length"]

_COMMON: Final = (
    Option(
        "dtype",
        str,
        "auto",
        "precision of weights and computation; auto: bfloat16 on a GPU, float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    Option(
        "attention",
        str,
        "sdpa",
        "transformers' attn_implementation",
        choices=("sdpa", "eager", "flash_attention_2", "flash_attention_3"),
    ),
)
GENERATE_OPTIONS: Final = (
    *_COMMON,
    Option("context", int, None, "tokens of one request, at most (default: the model's)"),
)
BATCHING_OPTIONS: Final = (
    *_COMMON,
    Option("context", int, 2048, "tokens of one request, prompt and output, at most"),
    Option("parallel", int, 16, "requests computed at the same time, at most"),
    Option("page_size", int, 32, "tokens of one page of the KV cache (transformers: 256)"),
    Option("max_batch_tokens", int, 512, "tokens computed in one step, at most"),
    Option("prefix_sharing", bool, True, "share the pages of equal beginnings of prompts"),
)


def context_length(config: ModelConfig, options: Mapping[str, OptionValue]) -> int:
    """The smaller one of the model's context and the one asked for."""
    asked = options.get("context")
    if asked is None:
        return config.context_length
    if int(asked) < 2:
        raise UsageError(f"context is {asked}; it must hold a prompt and an answer: 2 or more")
    return min(int(asked), config.context_length)
