"""What the scheduler decided for one step: which positions of which sequences are computed.

Plain facts, the contract between scheduler and runner, which do not know each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from enginebench_paged.sequence import Sequence

__all__ = ["Piece", "StepPlan"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions `start` to `start + length` of a sequence.

    `samples`: the piece reaches the sequence's last token, so the next one is drawn from its
    logits. `slot` is the sequence's when the step was planned. `drafts` are guesses of what follows
    that last token: the piece computes them too, and a token is drawn after each.
    """

    sequence: Sequence
    slot: int
    start: int
    length: int
    samples: bool
    drafts: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many tokens are drawn after its last positions."""
        return 1 + len(self.drafts) if self.samples else 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: pieces of a single token first (`decodes` of them), then longer ones.

    `admitted` got their slots in this step: whatever the device held there belongs to others.
    """

    pieces: tuple[Piece, ...]
    decodes: int
    admitted: tuple[Sequence, ...]

    @property
    def tokens(self) -> int:
        """Positions computed by this step."""
        return sum(piece.length for piece in self.pieces)
