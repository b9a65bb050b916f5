"""The options of the quant engine, and what they come to on this machine and for this model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from enginebench.errors import ModelError, UsageError
from enginebench.types import Option, OptionValue

if TYPE_CHECKING:
    from enginebench_models import ModelConfig

__all__ = ["OPTIONS", "QuantOptions"]

DEFAULT_CONTEXT: Final = 4096
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
)


@dataclass(frozen=True, slots=True)
class QuantOptions:
    """Options with every default resolved."""

    context: int
    threads: int
    prompt_cache: bool
    cpu_level: str

    @classmethod
    def resolve(cls, chosen: Mapping[str, OptionValue], config: ModelConfig) -> QuantOptions:
        """UsageError or ModelError for what cannot be."""
        values = {option.name: option.default for option in OPTIONS} | dict(chosen)
        threads = values["threads"]
        return cls(
            context=_context(values["context"], config),
            threads=_usable_cores() if threads is None else _at_least("threads", threads, 1),
            prompt_cache=bool(values["prompt_cache"]),
            cpu_level=str(values["cpu_level"]),
        )


def _context(chosen: OptionValue | None, config: ModelConfig) -> int:
    limit = min(config.context_length, config.sliding_window or config.context_length)
    if chosen is None:
        return min(limit, DEFAULT_CONTEXT)
    context = _at_least("context", chosen, 2)
    if context > limit:
        what = "sliding window" if limit < config.context_length else "context"
        raise ModelError(f"context {context} is above the model's {what} of {limit}; lower it")
    return context


def _at_least(name: str, value: OptionValue, least: int) -> int:
    if int(value) < least:
        raise UsageError(f"{name} must be {least} or more; got {value}")
    return int(value)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
