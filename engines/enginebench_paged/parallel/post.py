"""What a rank that is started here has to know, on its command line."""

from __future__ import annotations

import msgspec

from enginebench.types import OptionValue
from enginebench_paged.parallel.place import Place

__all__ = ["Post"]


class Post(msgspec.Struct, frozen=True):
    """The model as the server knows it, the engine's options, and which rank it is."""

    model: str
    options: dict[str, OptionValue]
    place: Place

    def encode(self) -> str:
        """As an argument."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> Post:
        """The reverse."""
        return msgspec.json.decode(text, type=cls)
