"""From a decoded body to what the engine gets: ranges checked, defaults filled in.

Pure functions; every wrong value is a 400 that names the field, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from enginebench_openai.bodies import GenerationBody, StreamOptions
from enginebench_openai.chain import with_chain
from enginebench_openai.errors import ApiError
from enginebench_openai.protocol import SamplingParams
from enginebench_openai.ranges import Ranges, check_ranges, out_of_range

if TYPE_CHECKING:
    from enginebench_models import Tokenizer

__all__ = [
    "MAX_BIAS",
    "MAX_CHOICES",
    "MAX_LOGPROBS",
    "MAX_PROMPTS",
    "MAX_STOPS",
    "MAX_STOP_CHARS",
    "check_prompt",
    "output_budget",
    "priority",
    "sampling_params",
    "stop_strings",
    "stream_options",
]

MAX_CHOICES: Final = 128
MAX_PROMPTS: Final = 1024
MAX_LOGPROBS: Final = 20
MAX_BIAS: Final = 100.0
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 1024
MAX_PRIORITY: Final = 100
_I64: Final = 2**63

_RANGES: Final[Ranges] = {
    "temperature": ("0 or more", lambda value: value >= 0),
    "top_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "top_k": ("1 or more (0 or -1: off)", lambda value: -1 <= value < _I64),
    "min_p": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": ("above 0", lambda value: value > 0),
    "presence_penalty": ("between -2 and 2", lambda value: -2 <= value <= 2),
    "frequency_penalty": ("between -2 and 2", lambda value: -2 <= value <= 2),
    "n": (f"between 1 and {MAX_CHOICES}", lambda value: 1 <= value <= MAX_CHOICES),
    "min_tokens": ("0 or more", lambda value: 0 <= value < _I64),
    "prompt_logprobs": (
        f"between 0 and {MAX_LOGPROBS}",
        lambda value: 0 <= value <= MAX_LOGPROBS,
    ),
    "seed": ("a 64-bit integer", lambda value: -_I64 <= value < _I64),
}


def sampling_params(body: GenerationBody, tokenizer: Tokenizer, vocab_size: int) -> SamplingParams:
    """How tokens are chosen. `top_k` 0 and -1 are how other servers' clients write "off"."""
    check_ranges(body, _RANGES)
    params = SamplingParams(
        temperature=_or(body.temperature, 1.0),
        top_k=body.top_k if body.top_k is not None and body.top_k > 0 else None,
        top_p=_or(body.top_p, 1.0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        seed=body.seed,
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
    )
    return with_chain(params, body, tokenizer)


def _logit_bias(bias: Mapping[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    found = {}
    for key, value in bias.items():
        token = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else vocab_size
        if token >= vocab_size:
            raise out_of_range("logit_bias", repr(key), f"keyed by ids from 0 to {vocab_size - 1}")
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise out_of_range("logit_bias", value, f"between -{MAX_BIAS:g} and {MAX_BIAS:g}")
        found[token] = value
    return tuple(found.items())


def stop_strings(body: GenerationBody) -> tuple[str, ...]:
    """The stop strings, each once."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS:
        raise out_of_range("stop", f"{len(stops)} strings", f"at most {MAX_STOPS} strings")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise out_of_range(
                "stop", f"a string of {len(stop)} characters", f"1 to {MAX_STOP_CHARS} characters"
            )
    return tuple(dict.fromkeys(stops))


def priority(body: GenerationBody) -> int:
    """How far the request steps back: 0 not at all, higher behind everybody with less."""
    asked = body.priority or 0
    if not 0 <= asked <= MAX_PRIORITY:
        raise out_of_range("priority", asked, f"0 (first) to {MAX_PRIORITY} (last)")
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
        raise out_of_range(param, f"token id {wrong}", f"token ids from 0 to {vocab_size - 1}")
    if len(prompt) >= context_length:
        raise ApiError(
            400,
            f"{param} has {len(prompt)} tokens; this model's context of {context_length} tokens "
            "must hold the prompt and at least one token of output",
            param=param,
            code="context_length_exceeded",
        )


def output_budget(
    asked: int | None,
    *,
    default: int | None,
    prompt_tokens: int,
    context_length: int,
    param: str,
    shifts: bool = False,
) -> int:
    """How many tokens may be generated; None as default: what the context leaves.

    An engine that `shifts` its context may be asked for more than that.
    """
    left = context_length - prompt_tokens
    if asked is None:
        return left if default is None else min(default, left)
    if asked < 1:
        raise out_of_range(param, asked, "1 or more")
    if asked > left and not shifts:
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
