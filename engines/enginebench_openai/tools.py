"""Tools of a request: what the chat template is told of them, and what `tool_choice` demands.

"none" hides the tools from the model; "auto" leaves it to write calls in its own notation, which
`tool_calls.py` reads; "required" and a named function force calls by a grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from enginebench_openai.bodies import ChatBody
from enginebench_openai.errors import ApiError
from enginebench_openai.protocol import Grammar
from enginebench_openai.tool_bodies import NamedTool, Tool
from enginebench_openai.tool_calls import FORCED, ToolFormat, format_of

__all__ = ["ToolUse", "tool_use"]

_ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`shown` is what the template gets; `grammar` is set where calls are forced."""

    shown: Sequence[dict[str, Any]]
    format: ToolFormat
    grammar: Grammar | None = None
    most_calls: int | None = None


def tool_use(body: ChatBody, template: str) -> ToolUse | None:
    """How this request uses tools; None: not at all. 400 for what cannot be."""
    choice, tools = body.tool_choice, body.tools or []
    if not tools:
        if choice in (None, "none", "auto"):
            return None
        raise _wrong("tool_choice", "it needs tools to choose from: give tools as well")
    _check(tools)
    if choice == "none":
        return None
    format = format_of(template)
    if format is None:
        raise _wrong("tools", "this model's chat template has no tools in a known notation")
    if choice in (None, "auto"):
        return _automatic(body, tools, format)
    if body.response_format not in (None, {"type": "text"}):
        raise _wrong("response_format", "it cannot go with a tool_choice that forces calls")
    return _forced(body, tools, choice)


def _automatic(body: ChatBody, tools: Sequence[Tool], format: ToolFormat) -> ToolUse:
    for at, tool in enumerate(tools):
        if tool.function.strict:
            where = f"tools[{at}].function.strict"
            raise _wrong(where, 'true needs tool_choice "required" or a named function')
    return ToolUse(_shown(tools), format, most_calls=_most_calls(body))


def _forced(body: ChatBody, tools: Sequence[Tool], choice: object) -> ToolUse:
    allowed, most = tools, _most_calls(body)
    if isinstance(choice, NamedTool):
        name, most = choice.function.name, 1
        allowed = [tool for tool in tools if tool.function.name == name]
        if not allowed:
            known = ", ".join(tool.function.name for tool in tools)
            raise _wrong("tool_choice", f"{name!r} is not among the tools ({known})")
    return ToolUse(_shown(tools), FORCED, _calls_grammar(allowed, most), most)


def _most_calls(body: ChatBody) -> int | None:
    return 1 if body.parallel_tool_calls is False else None


def _shown(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """As templates expect them: what was given, without what was left out."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.function.name,
                "description": tool.function.description or "",
                "parameters": tool.function.parameters or {**_ANY_OBJECT, "properties": {}},
            },
        }
        for tool in tools
    ]


def _calls_grammar(tools: Sequence[Tool], most: int | None) -> Grammar:
    """A JSON array of calls."""
    schema = {
        "type": "array",
        "minItems": 1,
        **({} if most is None else {"maxItems": most}),
        "items": {"anyOf": [_call_schema(at, tool) for at, tool in enumerate(tools)]},
    }
    return Grammar("json_schema", msgspec.json.encode(schema).decode())


def _call_schema(at: int, tool: Tool) -> dict[str, Any]:
    parameters = tool.function.parameters or _ANY_OBJECT
    root = f"#/items/anyOf/{at}/properties/parameters"
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.function.name},
            "parameters": _moved(parameters, root),
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, root: str) -> Any:
    """The schema with its references to itself pointing at where it stands now."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    target = moved.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = root + target[1:]
    return moved


def _check(tools: Sequence[Tool]) -> None:
    names = [tool.function.name for tool in tools]
    for at, name in enumerate(names):
        if not name or name in names[:at]:
            problem = "it must not be empty" if not name else f"{name!r} is given twice"
            raise _wrong(f"tools[{at}].function.name", problem)


def _wrong(field: str, problem: str) -> ApiError:
    return ApiError(400, f"{field}: {problem}", param=field, code="invalid_value")
