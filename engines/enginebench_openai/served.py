"""What the routes serve: the models' text sides, and the fronts to their engines.

Tokenizing a long text takes tens of milliseconds, during which every stream would stand still: it
goes to a worker thread (the tokenizer lets others run meanwhile); short texts are not worth that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request

from enginebench.errors import UsageError
from enginebench_openai.errors import ApiError
from enginebench_openai.front import Front
from enginebench_openai.metrics import ServerMetrics
from enginebench_openai.time_limit import OutOfTimeError, within

if TYPE_CHECKING:
    from enginebench_models import ChatTemplate, Tokenizer

__all__ = ["Served", "ServedModels", "read_body", "served"]

logger = logging.getLogger(__name__)

INLINE_CHARS: Final = 4096
TEMPLATE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    """One model behind one engine. `name` is what requests must put into "model"; `all_names` are
    those of every model that this server has; `path` is where it was found.

    Token ids below `vocab_size` have both a text and a row in the model's embedding.
    """

    name: str
    vocab_size: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    front: Front
    metrics: ServerMetrics
    max_body_bytes: int = 16 * 2**20
    stall_timeout_s: float = 60.0
    all_names: tuple[str, ...] = ()
    path: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """404 for any other model's name; None stands for the one that is served."""
        if name is not None and name != self.name:
            names = ", ".join(map(repr, self.all_names or (self.name,)))
            raise ApiError(
                404,
                f"the model {name!r} does not exist; this server has {names}",
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

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the model's own template makes of a conversation; further `variables`
        reach the template. A template is a stranger's program: it gets `TEMPLATE_S` at most.
        """
        if self.chat_template is None:
            raise ApiError(
                400,
                f"the model {self.name!r} has no chat template; use /v1/completions",
                param="messages",
                code="no_chat_template",
            )
        try:
            return await within(
                TEMPLATE_S,
                partial(
                    self.chat_template.render,
                    messages,
                    add_generation_prompt=add_generation_prompt,
                    **(variables or {}),
                ),
            )
        except UsageError as error:
            raise ApiError(400, str(error), param="messages", code="chat_template") from error
        except OutOfTimeError as error:
            message = f"the model's chat template did not end: {error}"
            raise ApiError(400, message, param="messages", code="chat_template") from error


class ServedModels:
    """Every model of a server, by name; the first one stands for requests that name none.

    With `log_prompts` every body that is read is written to the log. Prompt caches are kept in
    `slot_folder`, if there is one.
    """

    def __init__(
        self,
        models: Iterable[Served],
        *,
        log_prompts: bool = False,
        slot_folder: Path | None = None,
    ) -> None:
        self.by_name = {model.name: model for model in models}
        self.first = next(iter(self.by_name.values()))
        self.log_prompts, self.slot_folder = log_prompts, slot_folder


def served(request: Request) -> Served:
    """What this request asks: the model that it names, where there are several."""
    chosen: Served | None = request.scope.get("served")
    if chosen is None:
        models: ServedModels = request.app.state.models
        chosen = models.first
    return chosen


async def read_body(request: Request) -> bytes:
    """The whole body; 413 as soon as it is known to be too long, 408 where it does not come."""
    raw: bytes | None = request.scope.get("raw_body")
    if raw is None:
        raw = request.scope["raw_body"] = await _read(request, served(request))
        if request.app.state.models.log_prompts:
            logger.info(
                "asked",
                extra={
                    "request_id": request.scope["state"].get("request_id"),
                    "body": raw.decode("utf-8", "replace"),
                },
            )
    return raw


async def _read(request: Request, on: Served) -> bytes:
    limit = on.max_body_bytes
    announced = request.headers.get("content-length", "")
    parts, size = [], 0
    if not (announced.isdecimal() and int(announced[:20]) > limit):
        try:
            async with asyncio.timeout(on.stall_timeout_s) as patience:
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        break
                    patience.reschedule(asyncio.get_running_loop().time() + on.stall_timeout_s)
                else:
                    return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408,
                f"nothing more of the request's body came for {on.stall_timeout_s:g} s",
                code="request_stalled",
                headers={"connection": "close"},
            ) from None
    raise ApiError(
        413,
        f"the request body is larger than this server's limit of {limit} bytes",
        code="request_too_large",
        headers={"connection": "close"},
    )
