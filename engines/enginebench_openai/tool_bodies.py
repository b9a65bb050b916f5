"""Tools as requests spell them: functions offered, the choice among them, calls made before."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Function", "FunctionCall", "FunctionName", "MessageToolCall", "NamedTool", "Tool"]


class Function(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An entry of `tools`."""

    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Names one of the functions."""

    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A `tool_choice` that names the function to be called."""

    function: FunctionName
    type: Literal["function"] = "function"


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A call that the assistant made; `arguments` is JSON in a string."""

    name: str
    arguments: str


class MessageToolCall(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An entry of an assistant message's `tool_calls`."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None
