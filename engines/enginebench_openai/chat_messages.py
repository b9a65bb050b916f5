"""Messages of a request as chat templates expect them; 400 for those that cannot be.

The role "developer" is handed to the template as "system", whose successor it is. Calls that the
assistant made go in with their arguments as objects, which is how templates print them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enginebench_openai.bodies import ChatMessage
from enginebench_openai.errors import ApiError
from enginebench_openai.tool_bodies import MessageToolCall

__all__ = ["ROLES", "template_messages"]

ROLES: Final[Mapping[str, str]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """All of them."""
    if not messages:
        raise _wrong("messages", "it must not be empty")
    return [_template_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _template_message(message: ChatMessage, param: str) -> dict[str, Any]:
    if message.role not in ROLES:
        raise _wrong(f"{param}.role", f"it must be one of {', '.join(ROLES)}; got {message.role!r}")
    found = {"role": ROLES[message.role], "content": _content(message, f"{param}.content")}
    if message.name is not None:
        found["name"] = message.name
    _add_calls(found, message, param)
    if message.reasoning_content is not None:
        _require_role(message, "assistant", f"{param}.reasoning_content")
        found["reasoning_content"] = message.reasoning_content
    return found


def _add_calls(found: dict[str, Any], message: ChatMessage, param: str) -> None:
    if message.tool_calls:
        _require_role(message, "assistant", f"{param}.tool_calls")
        found["tool_calls"] = [
            _call(call, f"{param}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id is not None:
        _require_role(message, "tool", f"{param}.tool_call_id")
        found["tool_call_id"] = message.tool_call_id
    elif message.role == "tool":
        raise _missing(f"{param}.tool_call_id")


def _call(call: MessageToolCall, param: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        where = f"{param}.function.arguments"
        raise _wrong(where, "it must be a string that holds a JSON object")
    named = {"name": call.function.name, "arguments": arguments}
    return {"type": "function", "function": named, **({"id": call.id} if call.id else {})}


def _content(message: ChatMessage, param: str) -> str:
    if message.content is None:
        if message.role == "assistant" and message.tool_calls:
            return ""
        raise _missing(param)
    if isinstance(message.content, str):
        return message.content
    return "".join(_part(part, f"{param}[{at}]") for at, part in enumerate(message.content))


def _part(part: Mapping[str, Any], param: str) -> str:
    text = part.get("text")
    if part.get("type") != "text" or not isinstance(text, str) or len(part) != 2:
        raise ApiError(
            400,
            f'{param} must be {{"type": "text", "text": ...}}: this server takes text only',
            param=param,
            code="unsupported_content",
        )
    return text


def _require_role(message: ChatMessage, role: str, param: str) -> None:
    if message.role != role:
        raise _wrong(param, f"only messages of the role {role!r} have it; got {message.role!r}")


def _missing(param: str) -> ApiError:
    return ApiError(400, f"{param} is required", param=param, code="missing_parameter")


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(400, f"{param}: {problem}", param=param, code="invalid_value")
