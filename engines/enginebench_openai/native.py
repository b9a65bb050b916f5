"""llama-server's own routes, for clients that were written for it: /props and /slots.

GET  /props                                      what is served
GET  /slots                                      what each slot does
POST /slots/0?action=save     {"filename": "x"}  keep the prompt cache in a file
POST /slots/0?action=restore  {"filename": "x"}  and fill it again: its prompt is then not computed

Files lie in the folder that the operator named with `--slot-save-path`, under plain names.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enginebench_openai.bodies import decode
from enginebench_openai.errors import ApiError
from enginebench_openai.loop import CacheAction
from enginebench_openai.served import Served, ServedModels, read_body, served

__all__ = ["SlotBody", "props", "slot_file", "slots"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class SlotBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """/slots/0: a file's name, without a folder."""

    filename: str
    model: str | None = None


_decoder = msgspec.json.Decoder(SlotBody)


async def props(request: Request) -> Response:
    """GET /props."""
    on = served(request)
    on.front.require_ready()
    return _json(
        {
            "default_generation_settings": {"n_ctx": on.front.context_length},
            "total_slots": _slots(on),
            "model_alias": on.name,
            "chat_template": "" if on.chat_template is None else on.chat_template.source,
        }
    )


async def slots(request: Request) -> Response:
    """GET /slots. Slots are alike: those that work come first."""
    on = served(request)
    on.front.require_ready()
    busy = on.front.in_flight - on.front.queued
    return _json(
        [
            {"id": number, "n_ctx": on.front.context_length, "is_processing": number < busy}
            for number in range(_slots(on))
        ]
    )


async def slot_file(request: Request) -> Response:
    """POST /slots/0?action=..."""
    on = served(request)
    body = decode(_decoder, await read_body(request))
    on.check_model(body.model)
    action = request.query_params.get("action", "")
    if action not in ("save", "restore"):
        raise _wrong("action", f"action must be save or restore; got {action!r}")
    path = _path(request, body.filename)
    began = time.perf_counter()
    tokens = await on.front.file_cache(cast(CacheAction, action), path)
    spent_ms = round((time.perf_counter() - began) * 1e3, 3)
    done = {"save": "n_saved", "restore": "n_restored"}[action]
    timings = {f"{action}_ms": spent_ms}
    return _json({"id_slot": 0, "filename": body.filename, done: tokens, "timings": timings})


def _path(request: Request, name: str) -> Path:
    models: ServedModels = request.app.state.models
    if models.slot_folder is None:
        raise ApiError(
            501,
            "this server keeps no slots in files; start it with --slot-save-path DIRECTORY",
            code="not_supported",
        )
    if not _PLAIN.fullmatch(name):
        raise _wrong(
            "filename", f"filename must be letters, digits, '.', '_' and '-'; got {name[:128]!r}"
        )
    return models.slot_folder / name


def _slots(on: Served) -> int:
    return on.front.slots or 1


def _wrong(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
