"""/tokenize, /detokenize and /apply-template: tokenizer and chat template by themselves.

POST /tokenize    {"prompt": "text"} or {"messages": [...]}
                  -> {"tokens": [...], "count": n, "max_model_len": n}
                  llama-server's {"content": "text"}: no BOS token unless add_special
POST /detokenize  {"tokens": [...]} -> {"prompt": "text", "content": "text"}
POST /apply-template  {"messages": [...]} -> {"prompt": "text"}
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enginebench_openai.bodies import ChatMessage, decode
from enginebench_openai.chat_messages import template_messages
from enginebench_openai.errors import ApiError
from enginebench_openai.served import Served, read_body, served

__all__ = [
    "DetokenizeBody",
    "TemplateBody",
    "TokenizeBody",
    "apply_template",
    "detokenize",
    "tokenize",
]


class TokenizeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Either `prompt`, `content` or `messages`. `add_special_tokens`: the leading BOS token, if the
    model has one (default: as the model says; never for messages, whose template writes it).
    `add_special` is its name beside `content`; `with_pieces` tells each token's text or bytes."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    add_special: bool = False
    with_pieces: bool = False
    add_generation_prompt: bool = True


class DetokenizeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Special tokens are written out."""

    tokens: list[int]
    model: str | None = None


class TemplateBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A conversation, to be written out by the model's chat template and no more."""

    messages: list[ChatMessage]
    model: str | None = None


_template_decoder = msgspec.json.Decoder(TemplateBody)
_tokenize_decoder = msgspec.json.Decoder(TokenizeBody)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeBody)


async def tokenize(request: Request) -> Response:
    """POST /tokenize."""
    on = served(request)
    body = decode(_tokenize_decoder, await read_body(request))
    on.check_model(body.model)
    tokens = await _tokens(on, body)
    shown = [_with_piece(on, token) for token in tokens] if body.with_pieces else tokens
    return _json({"tokens": shown, "count": len(tokens), "max_model_len": on.front.context_length})


async def detokenize(request: Request) -> Response:
    """POST /detokenize."""
    on = served(request)
    body = decode(_detokenize_decoder, await read_body(request))
    on.check_model(body.model)
    for token in body.tokens:
        if not 0 <= token < on.vocab_size:
            raise ApiError(
                400,
                f"tokens must be ids from 0 to {on.vocab_size - 1}; got {token}",
                param="tokens",
                code="invalid_value",
            )
    text = on.tokenizer.decode(body.tokens, skip_special=False)
    return _json({"prompt": text, "content": text})


async def apply_template(request: Request) -> Response:
    """POST /apply-template."""
    on = served(request)
    body = decode(_template_decoder, await read_body(request))
    on.check_model(body.model)
    return _json({"prompt": await on.render_chat(template_messages(body.messages))})


def _with_piece(on: Served, token: int) -> dict[str, object]:
    piece = on.tokenizer.decode([token], skip_special=False)
    return {"id": token, "piece": list(on.tokenizer.pieces[token]) if "\ufffd" in piece else piece}


async def _tokens(on: Served, body: TokenizeBody) -> list[int]:
    if [body.prompt, body.content, body.messages].count(None) != 2:
        raise ApiError(
            400, "give either prompt, content or messages", param="prompt", code="missing_parameter"
        )
    if body.content is not None:
        return await on.encode(body.content, add_bos=None if body.add_special else False)
    if body.messages is None:
        assert body.prompt is not None
        return await on.encode(body.prompt, add_bos=body.add_special_tokens)
    text = await on.render_chat(
        template_messages(body.messages), add_generation_prompt=body.add_generation_prompt
    )
    return await on.encode(text, add_bos=bool(body.add_special_tokens))


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
