"""A quantized block of activations: 32 int8 and what products with it need to know of them."""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK", "BLOCK_BYTES", "NEG_FIRST_SUM_AT", "NEG_SUM_AT", "SCALED_SUM_AT", "SCALE_AT"]

BLOCK: Final = 32
BLOCK_BYTES: Final = 48
SCALE_AT: Final = 32  # float, after the codes
SCALED_SUM_AT: Final = 36  # float: scale * sum
NEG_SUM_AT: Final = 40  # int32: minus the sum of all codes
NEG_FIRST_SUM_AT: Final = 44  # int32: minus the sum of the first 16 codes
