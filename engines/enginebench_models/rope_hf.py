"""RopeScaling from `rope_parameters` (or the older `rope_scaling`) of a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginebench.errors import ModelError
from enginebench_models.rope_scaling import RopeScaling

__all__ = ["HFRope", "rope_from_hf"]

_KINDS = ("default", "linear", "llama3", "yarn", "longrope")
_SAME = {"su": "longrope"}  # what the first Phi-3 folders said


@dataclass(frozen=True, slots=True)
class HFRope:
    """What stands beside the scaling's own dict."""

    where: str
    theta: float | None
    context_length: int
    original_context_length: int | None


def rope_from_hf(given: Mapping[str, Any], beside: HFRope) -> tuple[float, RopeScaling | None]:
    """Rotary base, and how frequencies are scaled."""
    theta = given.get("rope_theta", beside.theta)
    kind = given.get("rope_type", given.get("type", "default"))
    kind = _SAME.get(kind, kind)
    if kind not in _KINDS:
        raise ModelError(
            f"{beside.where}: RoPE scaling {kind!r} is not supported (known: {', '.join(_KINDS)})"
        )
    try:
        return float(theta or 10_000.0), _READERS[kind](given, beside)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{beside.where}: RoPE scaling {dict(given)} lacks or garbles {error}"
        ) from error


def _default(given: Mapping[str, Any], beside: HFRope) -> None:
    return None


def _linear(given: Mapping[str, Any], beside: HFRope) -> RopeScaling:
    return RopeScaling("linear", factor=float(given["factor"]))


def _llama3(given: Mapping[str, Any], beside: HFRope) -> RopeScaling:
    return RopeScaling(
        "llama3",
        factor=float(given["factor"]),
        low_freq_factor=float(given["low_freq_factor"]),
        high_freq_factor=float(given["high_freq_factor"]),
        original_context_length=int(given["original_max_position_embeddings"]),
    )


def _yarn(given: Mapping[str, Any], beside: HFRope) -> RopeScaling:
    if given.get("truncate") is False:
        raise ValueError("truncate: bounds that are no whole dimensions are not supported")
    original = int(given.get("original_max_position_embeddings") or beside.context_length)
    factor = float(given.get("factor") or beside.context_length / original)
    return RopeScaling(
        "yarn",
        factor=factor,
        original_context_length=original,
        beta_fast=float(given.get("beta_fast") or 32),
        beta_slow=float(given.get("beta_slow") or 1),
        magnitude=_yarn_magnitude(given, factor),
    )


def _yarn_magnitude(given: Mapping[str, Any], factor: float) -> float:
    stated = given.get("attention_factor")
    if stated is not None:
        return float(stated)

    def of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    one, all_dims = given.get("mscale"), given.get("mscale_all_dim")
    return of(float(one)) / of(float(all_dims)) if one and all_dims else of(1.0)


def _longrope(given: Mapping[str, Any], beside: HFRope) -> RopeScaling:
    original = beside.original_context_length or given["original_max_position_embeddings"]
    stretch = given.get("factor") or beside.context_length / int(original)
    magnitude = given.get("attention_factor")
    if magnitude is None:
        is_stretched = stretch > 1
        magnitude = (
            math.sqrt(1 + math.log(stretch) / math.log(int(original))) if is_stretched else 1
        )
    return RopeScaling(
        "longrope",
        original_context_length=int(original),
        frequency_factors=tuple(float(factor) for factor in given["short_factor"]),
        long_frequency_factors=tuple(float(factor) for factor in given["long_factor"]),
        magnitude=float(magnitude),
    )


_READERS = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
