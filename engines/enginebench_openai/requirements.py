"""Which feature of an engine each field of a request needs; 400 by name where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from enginebench_openai.errors import ApiError
from enginebench_openai.protocol import Feature, GenerationRequest

__all__ = ["check_features", "require"]

# feature -> (the field that asks for it, whether a request does)
_NEEDED: Final[Mapping[Feature, tuple[str, Callable[[GenerationRequest], bool]]]] = {
    Feature.LOGIT_BIAS: ("logit_bias", lambda request: bool(request.sampling.logit_bias)),
    Feature.MIN_TOKENS: ("min_tokens", lambda request: request.min_tokens > 0),
    Feature.LOGPROBS: ("logprobs", lambda request: request.logprobs is not None),
    Feature.PROMPT_LOGPROBS: (
        "prompt_logprobs",
        lambda request: request.prompt_logprobs is not None,
    ),
    Feature.GRAMMAR: ("response_format", lambda request: request.grammar is not None),
    Feature.TYPICAL_P: ("typical_p", lambda request: request.sampling.typical_p < 1),
    Feature.DYNAMIC_TEMPERATURE: (
        "dynatemp_range",
        lambda request: request.sampling.dynamic_temperature is not None,
    ),
    Feature.XTC: ("xtc_probability", lambda request: request.sampling.xtc is not None),
    Feature.DRY: ("dry_multiplier", lambda request: request.sampling.dry is not None),
    Feature.PENALTY_WINDOW: (
        "repeat_last_n",
        lambda request: request.sampling.penalty_last_n is not None,
    ),
    Feature.MIROSTAT: ("mirostat", lambda request: request.sampling.mirostat is not None),
}


def check_features(
    features: frozenset[Feature], request: GenerationRequest, fields: Mapping[Feature, str]
) -> None:
    """`fields` says which field asked, where it is not the usual one."""
    for feature, (field, asks) in _NEEDED.items():
        if feature not in features and asks(request):
            require(features, feature, fields.get(feature, field))


def require(features: frozenset[Feature], feature: Feature, field: str) -> None:
    """400 that names the field if the engine lacks the feature."""
    if feature not in features:
        raise ApiError(
            400,
            f"{field} is not supported by the engine behind this server; leave it out "
            "(/v1/models lists what it supports)",
            param=field,
            code="unsupported_parameter",
        )
