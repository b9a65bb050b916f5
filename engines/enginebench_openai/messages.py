"""What front and engine say to each other when a process border lies between: framed msgpack.

A frame is the length of its body, 4 bytes little-endian, and the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from enginebench_openai.loop import CacheFiled, FileCache
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput

__all__ = [
    "Abort",
    "Add",
    "Dead",
    "Down",
    "File",
    "Filed",
    "Frames",
    "No",
    "Ready",
    "Stats",
    "Stop",
    "Tokens",
    "Up",
    "decode_down",
    "decode_up",
    "frame",
]

_LENGTH_BYTES: Final = 4


class Add(msgspec.Struct, frozen=True, tag=True):
    """Queue these."""

    requests: tuple[GenerationRequest, ...]


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Forget these."""

    request_ids: tuple[str, ...]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Close the engine and end."""


class File(msgspec.Struct, frozen=True, tag=True):
    """Save the prompt cache, or restore it."""

    command: FileCache


class Filed(msgspec.Struct, frozen=True, tag=True):
    """What became of that."""

    result: CacheFiled


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine is built."""

    context_length: int
    features: frozenset[Feature] = frozenset()
    slots: int | None = None
    device_bytes: int = 0


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """What a step gave."""

    outputs: tuple[TokenOutput, ...]


class Stats(msgspec.Struct, frozen=True, tag=True):
    """The engine's counters and gauges, whenever they changed."""

    stats: EngineStats


class No(msgspec.Struct, frozen=True, tag=True):
    """A request that can never be served."""

    request_id: str
    reason: str


class Dead(msgspec.Struct, frozen=True, tag=True):
    """The engine raised. `exit_code` is set where the error is one for users."""

    reason: str
    exit_code: int | None


Down = Add | Abort | File | Stop
Up = Ready | Tokens | Stats | No | Filed | Dead

_encoder = msgspec.msgpack.Encoder()
decode_down = msgspec.msgpack.Decoder(Down).decode
decode_up = msgspec.msgpack.Decoder(Up).decode


def frame(message: Down | Up) -> bytes:
    """A message ready to be sent."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


class Frames:
    """Cuts a stream of bytes, which come in any portions, into the bodies of frames."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes."""
        data, start = self._rest + data, 0
        while len(data) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(data[start:body], "little")
            if end > len(data):
                break
            yield data[body:end]
            start = end
        self._rest = data[start:]
