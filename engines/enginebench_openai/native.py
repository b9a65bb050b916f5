"""llama-server's routes about the server, for clients that were written for it: /props and /slots.

GET  /props                                      what is served, and the defaults of /completion
GET  /slots                                      what each slot does; ?fail_on_no_slot=1: 503 if all
                                                 are busy
POST /slots/0?action=save     {"filename": "x"}  keep the prompt cache in a file
POST /slots/0?action=restore  {"filename": "x"}  and fill it again: its prompt is then not computed
POST /slots/0?action=erase                       forget it

Files lie in the folder that the operator named with `--slot-save-path`, under plain names.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enginebench import __version__
from enginebench_openai.bodies import decode
from enginebench_openai.errors import ApiError
from enginebench_openai.generation import Generation
from enginebench_openai.loop import CacheAction
from enginebench_openai.native_bodies import NativeBody, generation_settings
from enginebench_openai.served import Served, ServedModels, read_body, served

__all__ = ["SlotBody", "props", "slot_file", "slots"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_DEFAULTS: Final = NativeBody(prompt="")


class SlotBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """/slots/0: a file's name, without a folder; none to erase."""

    filename: str | None = None
    model: str | None = None


_decoder = msgspec.json.Decoder(SlotBody)


async def props(request: Request) -> Response:
    """GET /props."""
    on = served(request)
    on.front.require_ready()
    tokenizer = on.tokenizer
    return _json(
        {
            "default_generation_settings": {
                "id": 0,
                "n_ctx": on.front.context_length,
                "params": _settings(on),
            },
            "total_slots": _slots(on),
            "model_alias": on.name,
            "model_path": on.path,
            "modalities": {"vision": False, "audio": False},
            "chat_template": "" if on.chat_template is None else on.chat_template.source,
            "bos_token": _special(on, tokenizer.bos_id),
            "eos_token": _special(on, min(tokenizer.eos_ids, default=None)),
            "build_info": f"enginebench {__version__}",
            "is_sleeping": on.front.state == "unloaded",
        }
    )


async def slots(request: Request) -> Response:
    """GET /slots. Slots are alike: those that work come first."""
    on = served(request)
    on.front.require_ready()
    count = _slots(on)
    running = on.front.running[:count]
    if len(running) == count and request.query_params.get("fail_on_no_slot"):
        raise ApiError(503, "no slot is free", code="no_slot", headers={"retry-after": "1"})
    idle = [None] * (count - len(running))
    return _json([_slot(on, number, one) for number, one in enumerate([*running, *idle])])


async def slot_file(request: Request) -> Response:
    """POST /slots/0?action=..."""
    on = served(request)
    body = decode(_decoder, await read_body(request) or b"{}")
    on.check_model(body.model)
    asked = request.query_params.get("action", "")
    action = next((one for one in get_args(CacheAction) if one == asked), None)
    if action is None:
        raise _wrong("action", f"action must be save, restore or erase; got {asked!r}")
    if action == "erase":
        return _json({"id_slot": 0, "n_erased": await on.front.file_cache(action, Path())})
    path = _path(request, body.filename)
    began = time.perf_counter()
    tokens = await on.front.file_cache(action, path)
    spent_ms = round((time.perf_counter() - began) * 1e3, 3)
    counted, size = ("n_saved", "n_written") if action == "save" else ("n_restored", "n_read")
    return _json(
        {
            "id_slot": 0,
            "filename": path.name,
            counted: tokens,
            size: path.stat().st_size,
            "timings": {f"{action}_ms": spent_ms},
        }
    )


def _slot(on: Served, number: int, running: Generation | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": number,
        "n_ctx": on.front.context_length,
        "is_processing": running is not None,
    }
    if running is not None:
        done, most = running.completion_tokens, running.request.max_tokens
        told["params"] = {
            "max_tokens": most,
            **msgspec.to_builtins(running.request.sampling),
        }
        told["next_token"] = {
            "has_next_token": True,
            "n_remain": most - done,
            "n_decoded": done,
        }
    return told


def _settings(on: Served) -> dict[str, Any]:
    return generation_settings(_DEFAULTS, on.front.context_length, on.name)


def _special(on: Served, token: int | None) -> str:
    return "" if token is None else on.tokenizer.decode([token], skip_special=False)


def _path(request: Request, name: str | None) -> Path:
    models: ServedModels = request.app.state.models
    if models.slot_folder is None:
        raise ApiError(
            501,
            "this server keeps no slots in files; start it with --slot-save-path DIRECTORY",
            code="not_supported",
        )
    if name is None or not _PLAIN.fullmatch(name):
        shown = "nothing" if name is None else repr(name[:128])
        raise _wrong("filename", f"filename must be letters, digits, '.', '_' and '-'; got {shown}")
    return models.slot_folder / name


def _slots(on: Served) -> int:
    return on.front.slots or 1


def _wrong(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
