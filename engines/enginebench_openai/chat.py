"""/v1/chat/completions: a conversation, written out by the model's own chat template.

The role "developer" is handed to the template as "system", whose successor it is; roles of tools
are refused, since tools are not supported.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.bodies import ChatBody, ChatMessage, decode
from enginebench_openai.errors import ApiError
from enginebench_openai.generate import Asked, generate
from enginebench_openai.served import read_body, served
from enginebench_openai.sse import CHAT

__all__ = ["chat_completions", "template_messages"]

ROLES: Final[Mapping[str, str]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_decoder = msgspec.json.Decoder(ChatBody)


async def chat_completions(request: Request) -> ASGIApp:
    """POST /v1/chat/completions."""
    on = served(request)
    raw, arrived_at = await read_body(request), time.perf_counter()
    body = decode(_decoder, raw)
    on.check_model(body.model)
    on.front.require_ready()
    max_tokens, max_tokens_field = _max_tokens(body)
    prompt = await on.encode(on.render_chat(template_messages(body.messages)), add_bos=False)
    asked = Asked(
        shape=CHAT,
        prompts=[prompt],
        prompt_field="messages",
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,
        default_max_tokens=None,
        arrived_at=arrived_at,
    )
    return await generate(request, body, asked)


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them; 400 for those that cannot be."""
    if not messages:
        raise ApiError(400, "messages must not be empty", param="messages", code="invalid_value")
    return [_template_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _max_tokens(body: ChatBody) -> tuple[int | None, str]:
    if body.max_completion_tokens is None:
        return body.max_tokens, "max_tokens"
    if body.max_tokens is not None:
        raise ApiError(
            400,
            "max_tokens and max_completion_tokens mean the same: give one of them",
            param="max_tokens",
            code="invalid_value",
        )
    return body.max_completion_tokens, "max_completion_tokens"


def _template_message(message: ChatMessage, param: str) -> dict[str, Any]:
    if message.role not in ROLES:
        raise ApiError(
            400,
            f"{param}.role must be one of {', '.join(ROLES)}; got {message.role!r}",
            param=f"{param}.role",
            code="invalid_value",
        )
    found = {"role": ROLES[message.role], "content": _content(message, f"{param}.content")}
    if message.name is not None:
        found["name"] = message.name
    return found


def _content(message: ChatMessage, param: str) -> str:
    if message.content is None:
        raise ApiError(400, f"{param} is required", param=param, code="missing_parameter")
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
