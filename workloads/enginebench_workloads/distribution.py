"""Distributions of lengths, written as text: `256`, `uniform:64:512`, `normal:256:64` ...

`normal:MEAN:SD` and `lognormal:MEAN:SD` take mean and standard deviation in tokens, of the lengths
themselves. Draws are whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Distribution"]

Kind = Literal["fixed", "uniform", "normal", "lognormal"]
WRITTEN = "N, uniform:LOW:HIGH, normal:MEAN:SD or lognormal:MEAN:SD"
MOST_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class Distribution:
    """`a` and `b` are LOW and HIGH (both included), or MEAN and SD; `fixed` has `a` alone."""

    kind: Kind
    a: float
    b: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Distribution:
        """Raises ValueError that says how it is written."""
        kind, *numbers = text.strip().split(":")
        if not numbers:
            kind, numbers = "fixed", [kind]
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        if kind not in get_args(Kind) or len(values) != (1 if kind == "fixed" else 2):
            raise ValueError(f"must be {WRITTEN}")
        made = cls(cast(Kind, kind), *values)
        made._check()
        return made

    @property
    def mean(self) -> float:
        """Of everything that `draw` gives."""
        return (self.a + self.b) / 2 if self.kind == "uniform" else self.a

    def _check(self) -> None:
        if not all(math.isfinite(value) and value <= MOST_TOKENS for value in (self.a, self.b)):
            raise ValueError(f"lengths must be numbers up to {MOST_TOKENS}")
        if self.a < 1:
            raise ValueError("lengths must be at least 1")
        whole = self.a.is_integer() and self.b.is_integer()
        if self.kind in ("fixed", "uniform") and not whole:
            raise ValueError("lengths must be whole numbers")
        if self.kind == "uniform" and self.b < self.a:
            raise ValueError("HIGH must not be below LOW")
        if self.kind in ("normal", "lognormal") and self.b < 0:
            raise ValueError("SD must be 0 or more")

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """`count` lengths, some perhaps below 1."""
        if self.kind == "fixed":
            return [int(self.a)] * count
        if self.kind == "uniform":
            drawn: list[int] = rng.integers(int(self.a), int(self.b) + 1, size=count).tolist()
            return drawn
        if self.kind == "normal":
            values = rng.normal(self.a, self.b, size=count)
        else:
            variance = math.log1p((self.b / self.a) ** 2)  # of the logarithm
            values = rng.lognormal(math.log(self.a) - variance / 2, math.sqrt(variance), size=count)
        return [round(value) for value in values.tolist()]
