"""How each tensor type is laid out for the kernels, and the IR that multiplies it: the table.

Rows are interleaved in groups of `lanes`, so that a vector holds the same four columns of every
row of its group: dot products need no sums across lanes, and the scales of a group are one load.
A step covers `block` columns of a group and takes `lanes * block_bytes` bytes: as many as in the
file, but for Q3_K to Q5_K and IQ4_XS, whose 6-bit scales become bytes (3.6% more at most).
`layout.py` writes what `load` reads here.

Activations come as quantized blocks of 32 (`activations.py`) or as plain floats, whichever the
format names.
"""

from __future__ import annotations

from typing import Literal, Protocol

from llvmlite import ir

from enginebench_quant.kernels.block_format import BlockFormat
from enginebench_quant.kernels.float_format import FloatFormat
from enginebench_quant.kernels.simd import Simd

__all__ = ["FORMATS", "Format"]

IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


class Format(Protocol):
    """One tensor type as the kernels see it."""

    @property
    def name(self) -> str: ...

    @property
    def block(self) -> int:
        """Columns of a step."""
        ...

    @property
    def parts(self) -> int:
        """A step is multiplied in so many parts, of as many columns each."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a step in one row."""
        ...

    @property
    def activations(self) -> Literal["int8", "float"]: ...

    def begin(self, v: Simd, step: ir.Value) -> list[ir.Value]:
        """What all parts of a step share."""
        ...

    def load(
        self, v: Simd, step: ir.Value, part: ir.Value, factors: list[ir.Value]
    ) -> list[ir.Value]:
        """A part's weights of one group, unpacked into registers; `factors` are from `begin`."""
        ...

    def multiply(
        self, v: Simd, weights: list[ir.Value], acts: ir.Value, totals: list[ir.Value]
    ) -> list[ir.Value]:
        """`totals` (float vectors that are summed at the end) plus this part's products."""
        ...


_ALL: tuple[Format, ...] = (
    FloatFormat("F32", 4),
    FloatFormat("F16", 2),
    FloatFormat("BF16", 2),
    BlockFormat("Q4_0", offset=8),
    BlockFormat("Q4_1"),
    BlockFormat("Q5_0", offset=16),
    BlockFormat("Q5_1"),
    BlockFormat("Q8_0", is_signed=True),
    BlockFormat("Q2_K"),
    BlockFormat("Q3_K", offset=4, has_signed_scales=True),
    BlockFormat("Q4_K"),
    BlockFormat("Q5_K"),
    BlockFormat("Q6_K", offset=32, has_signed_scales=True),
    BlockFormat("IQ4_NL", levels=IQ4_LEVELS, is_signed=True),
    BlockFormat("IQ4_XS", levels=IQ4_LEVELS, is_signed=True, has_signed_scales=True),
    BlockFormat("MXFP4", levels=tuple(16 + value for value in FP4_DOUBLED), offset=16),
)
FORMATS = {form.name: form for form in _ALL}
