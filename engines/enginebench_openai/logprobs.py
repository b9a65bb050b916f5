"""Logprobs as OpenAI's two routes and llama-server's write them.

Chat:         {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}], "refusal": null}
llama-server: [{"id", "token", "bytes", "logprob", "top_logprobs": [...]}]
Completions:  {"tokens", "token_logprobs", "top_logprobs": [{text: logprob}], "text_offset"}

A token that is no whole text is written "bytes:\\xe2\\x80", so that no two tokens look alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from enginebench_openai.protocol import TokenLogprob

if TYPE_CHECKING:
    from enginebench_models import Tokenizer

__all__ = [
    "LEAST",
    "Scored",
    "chat_logprobs",
    "completion_logprobs",
    "native_logprobs",
    "prompt_logprob",
]

LEAST: Final = -9999.0  # JSON has no -inf

# A token of the prompt or the output; None: the first of a prompt, which has no logprob.
Scored = TokenLogprob | tuple[int, None]


def chat_logprobs(tokenizer: Tokenizer, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Of a message, or of a part of it."""
    content = [
        {
            **_chat_token(tokenizer, score.token_id, score.logprob),
            "top_logprobs": [_chat_token(tokenizer, *one) for one in score.top],
        }
        for score in scores
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, scores: Sequence[Scored], offset: int
) -> tuple[dict[str, Any], int]:
    """Of a text that begins `offset` characters into its choice; and where the next one begins."""
    tokens: list[str] = []
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for score in scores:
        if isinstance(score, TokenLogprob):
            token = score.token_id
            logprobs.append(_finite(score.logprob))
            tops.append(_top(tokenizer, score))
        else:
            token, _ = score
            logprobs.append(None)
            tops.append(None)
        tokens.append(_text(tokenizer, token))
        offsets.append(offset)
        offset += len(_piece(tokenizer, token).decode("utf-8", "ignore"))
    found = {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": tops,
        "text_offset": offsets,
    }
    return found, offset


def native_logprobs(tokenizer: Tokenizer, scores: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Of what is new, in llama-server's form."""
    return [
        {
            **_native_token(tokenizer, score.token_id, score.logprob),
            "top_logprobs": [_native_token(tokenizer, *one) for one in score.top],
        }
        for score in scores
    ]


def prompt_logprob(tokenizer: Tokenizer, score: TokenLogprob) -> dict[str, Any]:
    """{token id: {"logprob", "decoded_token"}} of a prompt's token and its likeliest rivals."""
    known = dict([(score.token_id, score.logprob), *score.top])
    return {
        str(token): {"logprob": _finite(value), "decoded_token": _text(tokenizer, token)}
        for token, value in known.items()
    }


def _top(tokenizer: Tokenizer, score: TokenLogprob) -> dict[str, float]:
    """The likeliest, and the token itself where it is not among them."""
    top = {_text(tokenizer, token): _finite(value) for token, value in score.top}
    return {**top, _text(tokenizer, score.token_id): _finite(score.logprob)}


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": _text(tokenizer, token),
        "logprob": _finite(logprob),
        "bytes": list(_piece(tokenizer, token)),
    }


def _native_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {"id": token, **_chat_token(tokenizer, token, logprob)}


def _text(tokenizer: Tokenizer, token: int) -> str:
    piece = _piece(tokenizer, token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _piece(tokenizer: Tokenizer, token: int) -> bytes:
    """Ids past the vocabulary, which pad a model's embedding, have no text."""
    return tokenizer.pieces[token] if token < len(tokenizer.pieces) else b""


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LEAST
