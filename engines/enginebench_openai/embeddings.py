"""/v1/embeddings: a vector of length 1 for each input, pooled over the model's last hidden states.

POST {"model": ..., "input": "text" | [texts] | [token ids] | [[token ids], ...],
      "encoding_format": "float" | "base64", "pooling": "mean" | "last"}

`pooling` is this server's own field; without it the last token's state is taken, which is what
models made from generating ones are trained for.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal
from uuid import uuid4

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.types import ASGIApp

from enginebench_openai.access import client_of
from enginebench_openai.answer import whole_answer
from enginebench_openai.bodies import decode
from enginebench_openai.completions import token_ids
from enginebench_openai.flight import Flight
from enginebench_openai.generation import Generation, Shown
from enginebench_openai.params import check_prompt
from enginebench_openai.protocol import Feature, GenerationRequest, Pooling
from enginebench_openai.requirements import require
from enginebench_openai.served import Served, read_body, served

__all__ = ["EmbeddingBody", "embeddings"]

Format = Literal["float", "base64"]


class EmbeddingBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`dimensions` would cut vectors short, which only models made for it allow: not supported."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Format = "float"
    pooling: Pooling = "last"
    user: str | None = None
    dimensions: Any = None


_decoder = msgspec.json.Decoder(EmbeddingBody)


async def embeddings(request: Request) -> ASGIApp:
    """POST /v1/embeddings."""
    on = served(request)
    raw, arrived_at = await read_body(request), time.perf_counter()
    body = decode(_decoder, raw)
    on.check_model(body.model)
    on.front.require_ready()
    require(on.front.features, Feature.EMBEDDINGS, "/v1/embeddings")
    prompts = await token_ids(on, body.input, "input")
    flight = Flight(
        [_generation(on, body, prompts, index) for index in range(len(prompts))],
        streaming=False,
        arrived_at=arrived_at,
        client=client_of(request.scope),
    )
    return await whole_answer(
        request, on.front, flight, partial(_answer_bytes, on.name, body.encoding_format)
    )


def _generation(
    on: Served, body: EmbeddingBody, prompts: Sequence[Sequence[int]], index: int
) -> Generation:
    check_prompt(
        prompts[index],
        vocab_size=on.vocab_size,
        context_length=on.front.context_length,
        param=f"input[{index}]" if len(prompts) > 1 else "input",
    )
    work = GenerationRequest(
        request_id=uuid4().hex, prompt=tuple(prompts[index]), max_tokens=0, pooling=body.pooling
    )
    return Generation(work, on.tokenizer, index=index, stops=(), shown=Shown(output=False))


def _answer_bytes(
    model: str, form: Format, shown: Sequence[Generation], made: Sequence[Generation]
) -> bytes:
    data = [
        {"object": "embedding", "index": one.index, "embedding": _vector(one, form)}
        for one in shown
    ]
    tokens = sum(generation.prompt_tokens for generation in made)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _vector(generation: Generation, form: Format) -> Sequence[float] | str:
    vector = generation.embedding
    assert vector is not None
    if form == "float":
        return vector
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
