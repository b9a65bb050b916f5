"""What makes a token fast on a GPU, each as a switch, so that its worth can be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from enginebench.types import OptionValue

__all__ = ["Techniques"]


@dataclass(frozen=True, slots=True)
class Techniques:
    """Everything is on unless said otherwise; the options of the same names explain them."""

    cuda_graphs: bool = True
    early_launch: bool = True
    split_kv: bool = True
    fused_ops: bool = True
    device_sampling: bool = True
    steps_ahead: bool = True

    @classmethod
    def of(cls, chosen: Mapping[str, OptionValue | None]) -> Techniques:
        """As a user chose them; None is on."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: chosen.get(name) is not False for name in names})
