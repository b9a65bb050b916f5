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
from typing import Any, Final, TypeVar

import msgspec

from enginebench_openai.errors import ApiError

__all__ = ["ChatBody", "ChatMessage", "CompletionBody", "GenerationBody", "StreamOptions", "decode"]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`include_usage`: one more chunk at the end; `continuous_usage_stats`: usage in every chunk.

    `include_obfuscation` pads chunks against eavesdropping: only `false` is accepted.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


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
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int | None = None

    n: Any = None
    logit_bias: Any = None
    logprobs: Any = None

    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Any = None
    store: Any = None


class CompletionBody(GenerationBody, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """/v1/completions. Lists are all strings, all token ids, or all lists of token ids."""

    prompt: str | list[str | int | list[int]]
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One turn. Content is text, or a list of parts of type "text"."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    audio: Any = None
    function_call: Any = None
    refusal: Any = None
    tool_call_id: Any = None
    tool_calls: Any = None


class ChatBody(GenerationBody, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """/v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None


# Values that switch an unsupported feature off; null always does.
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "include_obfuscation": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": (),
    "refusal": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_call_id": (),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
    "verbosity": (),
    "web_search_options": (),
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
    for field in body.__struct_fields__:
        value = getattr(body, field)
        if value is None:
            continue
        if field in NEUTRAL:
            _require_neutral(f"{path}{field}", value, NEUTRAL[field])
        elif isinstance(value, msgspec.Struct):
            _refuse_unsupported(value, f"{path}{field}.")
        elif field == "messages":
            for index, message in enumerate(value):
                _refuse_unsupported(message, f"messages[{index}].")


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
