"""The line of the server's log that says in which numbers it computes, and its reader.

`describe("bf16", "int4", 4.1875, "fp8")` is written by the server, `told` reads it for the harness.
"""

from __future__ import annotations

import re

from enginebench.types import Numerics

__all__ = ["describe", "told"]

_LINE = "computes in {}, weights in {} ({} bits each), keys and values in {}"
_WHOLE = frozenset({"f32", "f16", "bf16"})  # whose names tell the bits
_PATTERN = re.compile(re.escape(_LINE).replace(r"\{\}", r"([\w.]+)"))


def describe(compute: str, weights: str, weight_bits: float, kv_cache: str) -> str:
    """Types as users name them; `weight_bits` of a matrix' value, scales and zeros included."""
    return _LINE.format(compute, weights, f"{weight_bits:.6g}", kv_cache)


def told(log: str) -> Numerics:
    """What a server said that printed `log`."""
    found = _PATTERN.search(log)
    if found is None:
        return Numerics()
    compute, weights, weight_bits, kv_cache = found.groups()
    bits = None if weights in _WHOLE else float(weight_bits)
    return Numerics(weights, compute, kv_cache, weight_bits=bits)
