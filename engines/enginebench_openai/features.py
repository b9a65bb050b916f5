"""What an engine can do beyond continuing a prompt with `SamplingParams`' basic fields.

An engine declares its `features`; the server refuses, by the name of the field, requests that
need one it lacks. Nothing is ever ignored in silence.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Feature"]


class Feature(StrEnum):
    """One thing that an engine may be able to do. The values are what /v1/models shows."""

    LOGIT_BIAS = "logit_bias"
    MIN_TOKENS = "min_tokens"
    LOGPROBS = "logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    GRAMMAR = "grammar"
    TYPICAL_P = "typical_p"
    DYNAMIC_TEMPERATURE = "dynamic_temperature"
    XTC = "xtc"
    DRY = "dry"
    MIROSTAT = "mirostat"
    PENALTY_WINDOW = "penalty_window"
    EMBEDDINGS = "embeddings"
    CONTEXT_SHIFT = "context_shift"  # output may go on beyond the context
