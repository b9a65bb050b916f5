"""What the sampling sequences of a step ask for beyond a token from the bare logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebench_paged.step import Piece

__all__ = ["Extras"]


@dataclass(frozen=True, slots=True)
class Extras:
    """Of all rows that a step samples together: the piece of each; of none, where none asks.

    `logprobs` is the largest number of alternatives that anybody asks for; None: nobody asks.
    """

    pieces: Sequence[Piece]
    penalized: bool
    constrained: bool
    logprobs: int | None

    @classmethod
    def of(cls, pieces: Sequence[Piece], *, penalized: bool) -> Extras:
        """What these ask for."""
        asked = [piece.sequence.request.logprobs for piece in pieces]
        return cls(
            pieces,
            penalized,
            any(piece.sequence.is_constrained for piece in pieces),
            max((count for count in asked if count is not None), default=None),
        )

    @property
    def redraw(self) -> bool:
        """Whether tokens drawn from the bare logits would be wrong."""
        return self.penalized or self.constrained
