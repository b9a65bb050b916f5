"""Which matrices are held in which format: what the options `quantization...` stand for.

Embedding, norms, biases and routers stay as they are: they are read a row at a time, or tiny. The
output head of int4 is int8: it is one matrix of many, and what it loses nothing later makes up for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginebench.errors import UsageError
from enginebench.types import OptionValue
from enginebench_paged.kernels.quantized_weight import WeightFormat

__all__ = ["Quantization", "quantization"]

_BITS = {"int8": 8, "int4": 4}
_GROUP = 128


@dataclass(frozen=True, slots=True)
class Quantization:
    """`name` as the option has it."""

    name: str
    body: WeightFormat
    head: WeightFormat


def quantization(chosen: Mapping[str, OptionValue | None]) -> Quantization | None:
    """What the options ask for; None: weights as they are."""
    name = str(chosen["quantization"])
    group, zeros = chosen["quantization_group"], chosen["quantization_zeros"]
    for option, value in (("quantization_group", group), ("quantization_zeros", zeros)):
        if value is not None and name not in _BITS:
            raise UsageError(
                f"{option} is {value} but quantization is {name}; it is for"
                f" {' and '.join(_BITS)}, leave it out"
            )
    if name == "none":
        return None
    if name not in _BITS:
        rows = WeightFormat(8, group=None)
        return Quantization(name, rows, rows)
    width = _GROUP if group is None else int(group)
    has_zeros = name == "int4" if zeros is None else bool(zeros)
    body = WeightFormat(_BITS[name], width, has_zeros)
    return Quantization(name, body, body if name == "int8" else WeightFormat(8, width))
