"""How long users think between an answer and their next turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from enginebench.types import Option
from enginebench_workloads.cell_options import CellOptions

if TYPE_CHECKING:
    import numpy as np

__all__ = ["THINK_OPTIONS", "Thinking"]

EXPONENTIAL, CONSTANT = "exponential", "constant"
THINK_OPTIONS: Sequence[Option] = (
    Option("think_s", float, 1.0, "mean pause between an answer and the next turn, in seconds"),
    Option(
        "think",
        str,
        EXPONENTIAL,
        "how pauses vary: exponentially about think_s, or not at all",
        choices=(EXPONENTIAL, CONSTANT),
    ),
)


@dataclass(frozen=True, slots=True)
class Thinking:
    """Pauses of mean `mean_s`."""

    mean_s: float
    varies: bool

    @classmethod
    def of(cls, chosen: CellOptions) -> Self:
        """By THINK_OPTIONS."""
        mean_s = chosen.number("think_s", least=0) or 0.0
        return cls(mean_s, chosen.text("think") == EXPONENTIAL)

    def draw(self, rng: np.random.Generator, count: int) -> list[float]:
        """One pause before each of `count` turns."""
        if not self.varies:
            return [self.mean_s] * count
        drawn: list[float] = rng.exponential(self.mean_s, size=count).tolist()
        return drawn
