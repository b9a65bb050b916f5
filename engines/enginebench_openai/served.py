"""What the routes serve: the model's text side, and the front to its engine.

Tokenizing a long text takes tens of milliseconds, during which every stream would stand still: it
goes to a worker thread (the tokenizer lets others run meanwhile); short texts are not worth that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request

from enginebench.errors import UsageError
from enginebench_openai.errors import ApiError
from enginebench_openai.front import Front
from enginebench_openai.metrics import ServerMetrics

if TYPE_CHECKING:
    from enginebench_models import ChatTemplate, Tokenizer

__all__ = ["Served", "read_body", "served"]

INLINE_CHARS: Final = 4096


@dataclass(frozen=True, slots=True)
class Served:
    """One model behind one engine. `name` is what requests must put into "model".

    Token ids below `vocab_size` have both a text and a row in the model's embedding.
    """

    name: str
    vocab_size: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    front: Front
    metrics: ServerMetrics
    max_body_bytes: int = 16 * 2**20
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """404 for any other model's name; None stands for the one that is served."""
        if name is not None and name != self.name:
            raise ApiError(
                404,
                f"the model {name!r} does not exist; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    async def encode(self, text: str, *, add_bos: bool | None = None) -> list[int]:
        """Token ids; special tokens written out in the text are recognized."""
        if len(text) <= INLINE_CHARS:
            return self.tokenizer.encode(text, add_bos=add_bos, parse_special=True)
        return await asyncio.to_thread(
            self.tokenizer.encode, text, add_bos=add_bos, parse_special=True
        )

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt that the model's own template makes of a conversation."""
        if self.chat_template is None:
            raise ApiError(
                400,
                f"the model {self.name!r} has no chat template; use /v1/completions",
                param="messages",
                code="no_chat_template",
            )
        try:
            return self.chat_template.render(messages, add_generation_prompt=add_generation_prompt)
        except UsageError as error:
            raise ApiError(400, str(error), param="messages", code="chat_template") from error


def served(request: Request) -> Served:
    """What the application of this request serves."""
    found: Served = request.app.state.served
    return found


async def read_body(request: Request) -> bytes:
    """The whole body, or 413 as soon as it is known to be too long."""
    limit = served(request).max_body_bytes
    announced = request.headers.get("content-length", "")
    parts, size = [], 0
    if not (announced.isdigit() and int(announced) > limit):
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > limit:
                break
        else:
            return b"".join(parts)
    raise ApiError(
        413,
        f"the request body is larger than this server's limit of {limit} bytes",
        code="request_too_large",
        headers={"connection": "close"},
    )
