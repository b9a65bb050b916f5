"""Where the fields of a quantized block lie in a GGUF file: what the packing reads.

Pure data; `layout.py` and `packing.py` follow it, and `formats.py` derives from it what a packed
step holds. Types of plain numbers have no blocks and are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FILE_BLOCKS", "FileBlock", "Plane", "ScaleScheme"]

ScaleScheme = Literal["none", "six_bit_pairs", "nibble_pairs", "int8", "six_bit", "split_six_bit"]
"""How a superblock stores the factors of its groups:

    six_bit_pairs   8 scales and 8 minima of 6 bits in 12 bytes (Q4_K, Q5_K)
    nibble_pairs    16 bytes: scale in the low nibble, minimum in the high one (Q2_K)
    int8            16 scales (Q6_K)
    six_bit         16 scales of 6 bits, less 32: 8 bytes of nibbles, 4 of bit pairs (Q3_K)
    split_six_bit   8 scales of 6 bits, less 32: a uint16 of bit pairs, 4 bytes of nibbles (IQ4_XS)
"""


@dataclass(frozen=True, slots=True)
class Plane:
    """`bits` bits of every code, from byte `at` on.

    Each `run` bytes hold 8 // bits runs of `run` codes, the first in the lowest bits.
    """

    at: int
    bits: int
    run: int


@dataclass(frozen=True, slots=True)
class FileBlock:
    """A block of `columns` codes in `n_bytes` bytes; `planes` begin with the codes' highest bits.

    `factors`: where what multiplies the whole block lies, the scale first, then the minimum;
    halves, or bytes that are exponents of two (`factor_bytes` 1).
    """

    columns: int
    n_bytes: int
    factors: tuple[int, ...]
    planes: tuple[Plane, ...]
    scheme: ScaleScheme = "none"
    scales_at: int = 0
    factor_bytes: int = 2

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return sum(plane.bits for plane in self.planes)


FILE_BLOCKS = {
    "Q4_0": FileBlock(32, 18, (0,), (Plane(2, 4, 16),)),
    "Q4_1": FileBlock(32, 20, (0, 2), (Plane(4, 4, 16),)),
    "Q5_0": FileBlock(32, 22, (0,), (Plane(2, 1, 1), Plane(6, 4, 16))),
    "Q5_1": FileBlock(32, 24, (0, 2), (Plane(4, 1, 1), Plane(8, 4, 16))),
    "Q8_0": FileBlock(32, 34, (0,), (Plane(2, 8, 32),)),
    "IQ4_NL": FileBlock(32, 18, (0,), (Plane(2, 4, 16),)),
    "MXFP4": FileBlock(32, 17, (0,), (Plane(1, 4, 16),), factor_bytes=1),
    "Q2_K": FileBlock(256, 84, (80, 82), (Plane(16, 2, 32),), "nibble_pairs", 0),
    "Q3_K": FileBlock(256, 110, (108,), (Plane(0, 1, 32), Plane(32, 2, 32)), "six_bit", 96),
    "Q4_K": FileBlock(256, 144, (0, 2), (Plane(16, 4, 32),), "six_bit_pairs", 4),
    "Q5_K": FileBlock(256, 176, (0, 2), (Plane(16, 1, 32), Plane(48, 4, 32)), "six_bit_pairs", 4),
    "Q6_K": FileBlock(256, 210, (208,), (Plane(128, 2, 32), Plane(0, 4, 64)), "int8", 192),
    "IQ4_XS": FileBlock(256, 136, (0,), (Plane(8, 4, 16),), "split_six_bit", 2),
}
