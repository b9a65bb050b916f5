"""What the first rank tells the others before each step, so that all of them do the same.

Every rank runs the whole engine, its scheduler included: given the same requests between the same
steps, and the same sampled ids, it plans the same. So one short message a step is all that hosts
say to each other: what came and what was aborted since the last one, in order.
"""

from __future__ import annotations

from typing import Final

import msgspec
import torch
from torch import distributed

from enginebench.errors import EngineError
from enginebench_openai.protocol import GenerationRequest
from enginebench_paged.parallel.ranks import Ranks

__all__ = ["Turn", "hear", "tell"]

_FIRST_BYTES: Final = 512  # of the message that always goes out: most fit
_LENGTH_BYTES: Final = 8


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """Requests to add and ids of requests to abort, then a step; or the end."""

    commands: tuple[GenerationRequest | str, ...] = ()
    last: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Turn).decode


def tell(ranks: Ranks, turn: Turn) -> None:
    """Called by the first rank."""
    body = _encode(turn)
    message = len(body).to_bytes(_LENGTH_BYTES, "little") + body
    first = bytearray(message[:_FIRST_BYTES].ljust(_FIRST_BYTES, b"\0"))
    _broadcast(ranks, torch.frombuffer(first, dtype=torch.uint8))
    if len(message) > _FIRST_BYTES:
        _broadcast(ranks, torch.frombuffer(bytearray(message[_FIRST_BYTES:]), dtype=torch.uint8))


def hear(ranks: Ranks) -> Turn:
    """Called by all others; waits for the first. EngineError if that has gone."""
    buffer = torch.empty(_FIRST_BYTES, dtype=torch.uint8)
    try:
        _broadcast(ranks, buffer)
    except RuntimeError as error:
        raise EngineError(f"rank {ranks.rank} has lost the first rank: {error}") from error
    message = buffer.numpy().tobytes()
    end = _LENGTH_BYTES + int.from_bytes(message[:_LENGTH_BYTES], "little")
    if end > _FIRST_BYTES:
        rest = torch.empty(end - _FIRST_BYTES, dtype=torch.uint8)
        _broadcast(ranks, rest)
        message += rest.numpy().tobytes()
    return _decode(message[_LENGTH_BYTES:end])


def _broadcast(ranks: Ranks, buffer: torch.Tensor) -> None:
    distributed.broadcast(buffer, group_src=0, group=ranks.host_group)
