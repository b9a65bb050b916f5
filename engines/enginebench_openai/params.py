"""From a decoded body to what the engine gets: ranges checked, defaults filled in.

Pure functions; every wrong value is a 400 that names the field, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from enginebench_openai.bodies import GenerationBody, StreamOptions
from enginebench_openai.errors import ApiError
from enginebench_openai.protocol import SamplingParams

__all__ = [
    "MAX_STOPS",
    "MAX_STOP_CHARS",
    "check_prompt",
    "output_budget",
    "priority",
    "sampling_params",
    "stop_strings",
    "stream_options",
]

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 1024
MAX_PRIORITY: Final = 100
_I64: Final = 2**63

_RANGES: Final[Mapping[str, tuple[str, Callable[[float], bool]]]] = {
    "temperature": ("0 or more", lambda value: value >= 0),
    "top_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "top_k": ("1 or more (0 or -1: off)", lambda value: -1 <= value < _I64),
    "min_p": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": ("above 0", lambda value: value > 0),
    "presence_penalty": ("between -2 and 2", lambda value: -2 <= value <= 2),
    "frequency_penalty": ("between -2 and 2", lambda value: -2 <= value <= 2),
    "seed": ("a 64-bit integer", lambda value: -_I64 <= value < _I64),
}


def sampling_params(body: GenerationBody) -> SamplingParams:
    """How tokens are chosen. `top_k` 0 and -1 are how other servers' clients write "off"."""
    for field, (allowed, fits) in _RANGES.items():
        value = getattr(body, field)
        if value is not None and not fits(value):
            raise _out_of_range(field, value, allowed)
    return SamplingParams(
        temperature=_or(body.temperature, 1.0),
        top_k=body.top_k if body.top_k is not None and body.top_k > 0 else None,
        top_p=_or(body.top_p, 1.0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        seed=body.seed,
    )


def stop_strings(body: GenerationBody) -> tuple[str, ...]:
    """The stop strings, each once."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS:
        raise _out_of_range("stop", f"{len(stops)} strings", f"at most {MAX_STOPS} strings")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise _out_of_range(
                "stop", f"a string of {len(stop)} characters", f"1 to {MAX_STOP_CHARS} characters"
            )
    return tuple(dict.fromkeys(stops))


def priority(body: GenerationBody) -> int:
    """How far the request steps back: 0 not at all, higher behind everybody with less."""
    asked = body.priority or 0
    if not 0 <= asked <= MAX_PRIORITY:
        raise _out_of_range("priority", asked, f"0 (first) to {MAX_PRIORITY} (last)")
    return asked


def stream_options(body: GenerationBody) -> StreamOptions:
    """`stream_options`, which only a stream may have."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(
            400,
            "stream_options is only allowed when stream is true",
            param="stream_options",
            code="invalid_value",
        )
    return body.stream_options or StreamOptions()


def check_prompt(
    prompt: Sequence[int], *, vocab_size: int, context_length: int, param: str
) -> None:
    """Refuse what no engine could continue: nothing, unknown tokens, or no room for one more."""
    if not prompt:
        raise ApiError(400, f"{param} must not be empty", param=param, code="invalid_value")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < vocab_size)
        raise _out_of_range(param, f"token id {wrong}", f"token ids from 0 to {vocab_size - 1}")
    if len(prompt) >= context_length:
        raise ApiError(
            400,
            f"{param} has {len(prompt)} tokens; this model's context of {context_length} tokens "
            "must hold the prompt and at least one token of output",
            param=param,
            code="context_length_exceeded",
        )


def output_budget(
    asked: int | None, *, default: int | None, prompt_tokens: int, context_length: int, param: str
) -> int:
    """How many tokens may be generated; None as default: what the context leaves."""
    left = context_length - prompt_tokens
    if asked is None:
        return left if default is None else min(default, left)
    if asked < 1:
        raise _out_of_range(param, asked, "1 or more")
    if asked > left:
        raise ApiError(
            400,
            f"{param} is {asked}, but the prompt's {prompt_tokens} tokens leave {left} of this "
            f"model's context of {context_length}",
            param=param,
            code="context_length_exceeded",
        )
    return asked


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _out_of_range(param: str, value: object, allowed: str) -> ApiError:
    return ApiError(
        400, f"{param} must be {allowed}; got {value}", param=param, code="invalid_value"
    )
