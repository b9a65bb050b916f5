"""The longer chain of samplers, under the names that llama.cpp's server gives its fields.

repeat_last_n (how far back the penalties look); typical_p; dynatemp_range, dynatemp_exponent;
xtc_probability, xtc_threshold; dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n,
dry_sequence_breakers; mirostat (0 or 2), mirostat_tau, mirostat_eta. Each group is off unless its
first field switches it on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from enginebench_openai.bodies import GenerationBody
from enginebench_openai.protocol import Dry, DynamicTemperature, Mirostat, SamplingParams, Xtc
from enginebench_openai.ranges import Ranges, check_ranges, out_of_range

if TYPE_CHECKING:
    from enginebench_models import Tokenizer

__all__ = ["DRY_BREAKERS", "with_chain"]

DRY_BREAKERS: Final = ("\n", ":", '"', "*")
MAX_BREAKERS: Final = 64
MAX_BREAKER_CHARS: Final = 64

_RANGES: Final[Ranges] = {
    "repeat_last_n": ("0 or more (0: off, -1: the context)", lambda value: -1 <= value < 2**31),
    "typical_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "dynatemp_range": ("0 or more", lambda value: 0 <= value < math.inf),
    "dynatemp_exponent": ("above 0", lambda value: 0 < value < math.inf),
    "xtc_probability": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "xtc_threshold": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "dry_multiplier": ("0 or more", lambda value: 0 <= value < math.inf),
    "dry_base": ("1 or more", lambda value: 1 <= value < math.inf),
    "dry_allowed_length": ("1 or more", lambda value: 1 <= value < 2**31),
    "dry_penalty_last_n": ("0 or more (-1: the context)", lambda value: -1 <= value < 2**31),
    "mirostat": ("0 (off) or 2", lambda value: value in (0, 2)),
    "mirostat_tau": ("above 0", lambda value: 0 < value < math.inf),
    "mirostat_eta": ("above 0", lambda value: 0 < value < math.inf),
}


def with_chain(
    params: SamplingParams, body: GenerationBody, tokenizer: Tokenizer
) -> SamplingParams:
    """`params` with what the body switches on."""
    check_ranges(body, _RANGES)
    if body.repeat_last_n is not None:
        params = _within(params, body.repeat_last_n)
    if body.typical_p is not None and body.typical_p < 1:
        params = replace(params, typical_p=body.typical_p)
    if body.dynatemp_range:
        heat = DynamicTemperature(body.dynatemp_range, _or(body.dynatemp_exponent, 1.0))
        params = replace(params, dynamic_temperature=heat)
    if body.xtc_probability:
        params = replace(params, xtc=Xtc(body.xtc_probability, _or(body.xtc_threshold, 0.1)))
    if body.dry_multiplier and body.dry_penalty_last_n != 0:
        params = replace(params, dry=_dry(body, body.dry_multiplier, tokenizer))
    if body.mirostat:
        mirostat = Mirostat(_or(body.mirostat_tau, 5.0), _or(body.mirostat_eta, 0.1))
        params = replace(params, mirostat=mirostat)
    return params


def _within(params: SamplingParams, last_n: int) -> SamplingParams:
    """The penalties of `params` with how far back they look."""
    if last_n == 0:
        return replace(params, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    is_on = params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
    return replace(params, penalty_last_n=last_n) if is_on and last_n > 0 else params


def _dry(body: GenerationBody, multiplier: float, tokenizer: Tokenizer) -> Dry:
    last_n = body.dry_penalty_last_n
    strings = body.dry_sequence_breakers
    return Dry(
        multiplier,
        base=_or(body.dry_base, 1.75),
        allowed_length=2 if body.dry_allowed_length is None else body.dry_allowed_length,
        penalty_last_n=None if last_n == -1 else last_n,
        breakers=_breakers(tokenizer, DRY_BREAKERS if strings is None else _checked(strings)),
    )


def _checked(strings: Sequence[str]) -> tuple[str, ...]:
    allowed = f"at most {MAX_BREAKERS} strings of 1 to {MAX_BREAKER_CHARS} characters"
    if len(strings) > MAX_BREAKERS:
        raise out_of_range("dry_sequence_breakers", f"{len(strings)} strings", allowed)
    for string in strings:
        if not 1 <= len(string) <= MAX_BREAKER_CHARS:
            got = f"a string of {len(string)} characters"
            raise out_of_range("dry_sequence_breakers", got, allowed)
    return tuple(strings)


@lru_cache(maxsize=8)
def _breakers(tokenizer: Tokenizer, strings: tuple[str, ...]) -> frozenset[int]:
    """Tokens whose text contains one of the strings."""
    wanted = [string.encode("utf-8", "surrogatepass") for string in strings]
    return frozenset(
        token
        for token, piece in enumerate(tokenizer.pieces)
        if any(string in piece for string in wanted)
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
