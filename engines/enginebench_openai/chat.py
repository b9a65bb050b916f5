"""/v1/chat/completions: a conversation, written out by the model's own chat template."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.bodies import ChatBody, decode
from enginebench_openai.chat_messages import template_messages
from enginebench_openai.chat_reading import ChatReader
from enginebench_openai.errors import ApiError
from enginebench_openai.generate import Asked, generate
from enginebench_openai.params import MAX_LOGPROBS
from enginebench_openai.ranges import out_of_range
from enginebench_openai.reasoning import opens_reasoning, tags_of
from enginebench_openai.served import read_body, served
from enginebench_openai.sse import CHAT
from enginebench_openai.structured import requested_grammar
from enginebench_openai.tools import ToolUse, tool_use

__all__ = ["chat_completions"]

_decoder = msgspec.json.Decoder(ChatBody)


async def chat_completions(request: Request) -> ASGIApp:
    """POST /v1/chat/completions."""
    on = served(request)
    raw, arrived_at = await read_body(request), time.perf_counter()
    body = decode(_decoder, raw)
    on.check_model(body.model)
    on.front.require_ready()
    max_tokens, max_tokens_field = _max_tokens(body)
    template = "" if on.chat_template is None else on.chat_template.source
    use = tool_use(body, template)
    text = await on.render_chat(template_messages(body.messages), variables=_variables(body, use))
    grammar, grammar_field = requested_grammar(body)
    if use is not None and use.grammar is not None:
        grammar, grammar_field = use.grammar, "tool_choice"
    asked = Asked(
        shape=CHAT,
        prompts=[await on.encode(text, add_bos=False)],
        prompt_field="messages",
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,
        default_max_tokens=None,
        arrived_at=arrived_at,
        logprobs=_logprobs(body),
        grammar=grammar,
        grammar_field=grammar_field,
        reader=_reader(template, text, use),
    )
    return await generate(request, body, asked)


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


def _logprobs(body: ChatBody) -> int | None:
    """How many alternatives each token gets; None without logprobs."""
    top = body.top_logprobs
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise out_of_range("top_logprobs", top, f"between 0 and {MAX_LOGPROBS}")
    if not body.logprobs:
        if top is not None:
            raise out_of_range("top_logprobs", top, "left out unless logprobs is true")
        return None
    return top or 0


def _variables(body: ChatBody, use: ToolUse | None) -> dict[str, Any]:
    """What the template gets beside the messages."""
    variables = dict(body.chat_template_kwargs or {})
    for name in ("messages", "tools", "add_generation_prompt"):
        if name in variables:
            raise ApiError(
                400,
                f"chat_template_kwargs must not hold {name!r}, which the server sets",
                param="chat_template_kwargs",
                code="invalid_value",
            )
    return variables if use is None else {**variables, "tools": use.shown}


def _reader(template: str, prompt: str, use: ToolUse | None) -> Callable[[], ChatReader] | None:
    """What reads the answers; None where they are plain text."""
    tags = tags_of(template)
    if tags is None and use is None:
        return None
    return partial(
        ChatReader,
        reasoning=tags,
        inside_reasoning=tags is not None and opens_reasoning(prompt, tags),
        tools=None if use is None else use.format,
        most_calls=None if use is None else use.most_calls,
    )
