"""How one layer's attention looks at the cached keys."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Sight"]


@dataclass(frozen=True, slots=True)
class Sight:
    """Scores are products times `scale`, then softcap * tanh(score / softcap) where there is one.

    `window` None: a token sees all before it; else itself and the window - 1 before it.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None

    @classmethod
    def of_head(cls, head_dim: int) -> Sight:
        """The usual one."""
        return cls(head_dim**-0.5)
