"""Request bodies: their fields, and what becomes of every field that OpenAI's API has.

Three kinds of fields, none of them ignored in silence:

- supported ones are typed here and checked further in `params.py`;
- those in `NEUTRAL` are not supported yet: they are accepted where they hold the value that means
  "off", and refused by name otherwise;
- labels for a provider's bookkeeping (`user`, `metadata`, `safety_identifier`, `prompt_cache_key`)
  cannot change the answer and are accepted.

Anything else is an unknown field and refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, TypeVar

import msgspec

from enginebench_openai.errors import ApiError
from enginebench_openai.tool_bodies import MessageToolCall, NamedTool, Tool

__all__ = [
    "ChatBody",
    "ChatMessage",
    "CompletionBody",
    "GenerationBody",
    "StreamOptions",
    "StructuredOutputs",
    "decode",
]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`include_usage`: one more chunk at the end; `continuous_usage_stats`: usage in every chunk.

    `include_obfuscation` pads chunks against eavesdropping: only `false` is accepted.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the output must match, by exactly one of these."""

    json: str | dict[str, Any] | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class GenerationBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What both generating routes have in common. None: the default."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    grammar: str | None = None
    prompt_logprobs: int | None = None

    repeat_last_n: int | None = None
    typical_p: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None

    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Any = None
    store: Any = None


class CompletionBody(GenerationBody, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """/v1/completions. Lists are all strings, all token ids, or all lists of token ids."""

    prompt: str | list[str | int | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: Any = None


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One turn. Content is text, or a list of parts of type "text"."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    reasoning_content: str | None = None
    audio: Any = None
    function_call: Any = None
    refusal: Any = None
    annotations: Any = None


class ChatBody(GenerationBody, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """/v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None


# Values that switch an unsupported feature off; null always does.
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "annotations": ([],),
    "audio": (),
    "dimensions": (),
    "function_call": ("none",),
    "functions": ([],),
    "include_obfuscation": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "refusal": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": (),
    "web_search_options": (),
    # of llama-server's /completion
    "cache_prompt": (True,),
    "lora": ([],),
    "min_keep": (0,),
    "n_cache_reuse": (0,),
    "n_indent": (0,),
    "post_sampling_probs": (False,),
    "return_progress": (False,),
    "samplers": (),
    "sse_ping_interval": (-1,),
    "t_max_predict_ms": (0,),
}

Body = TypeVar("Body", bound=msgspec.Struct)
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED = re.compile(r"Object (contains unknown|missing required) field `([^`]*)`")


def decode(decoder: msgspec.json.Decoder[Body], raw: bytes) -> Body:
    """Parse a body; whatever is wrong with it becomes a 400 that names the field."""
    try:
        body = decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise ApiError(400, "the JSON is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # malformed JSON or UTF-8
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    _refuse_unsupported(body, "")
    return body


def _invalid(message: str) -> ApiError:
    found = _PATH.search(message)
    path = found[1] if found else ""
    problem = message[: found.start()] if found else message
    named = _NAMED.search(problem)
    if named is None:
        where = f"{path}: " if path else ""
        return ApiError(400, f"{where}{problem}", param=path or None, code="invalid_type")
    param = f"{path}.{named[2]}" if path else named[2]
    if named[1] == "missing required":
        return ApiError(400, f"{param} is required", param=param, code="missing_parameter")
    return ApiError(
        400, f"{param} is not a field that this server knows", param=param, code="unknown_parameter"
    )


def _refuse_unsupported(body: msgspec.Struct, path: str) -> None:
    for field in _neutral_fields(type(body)):
        value = getattr(body, field)
        if value is not None:
            _require_neutral(f"{path}{field}", value, NEUTRAL[field])
    if isinstance(body, GenerationBody) and body.stream_options is not None:
        _refuse_unsupported(body.stream_options, "stream_options.")
    if isinstance(body, ChatBody):
        for index, message in enumerate(body.messages):
            _refuse_unsupported(message, f"messages[{index}].")


@cache
def _neutral_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field for field in kind.__struct_fields__ if field in NEUTRAL)


def _require_neutral(param: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if any(type(value) is type(known) and value == known for known in allowed):
        return
    shown = " or ".join(msgspec.json.encode(known).decode() for known in (*allowed, None))
    raise ApiError(
        400,
        f"{param} is not supported by this server; leave it out (only {shown} is accepted)",
        param=param,
        code="unsupported_parameter",
    )
