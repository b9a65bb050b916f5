"""In which types other engines compute, from their options, the model, and what they print.

`from_dtype("auto", log)` reads what auto became from the log of vLLM and SGLang; `from_gguf(model,
"q8_0")` takes the weights as they are in the file and the cache as said.
"""

from __future__ import annotations

import re

from enginebench.types import ModelInfo, Numerics, OptionValue

__all__ = ["from_dtype", "from_gguf", "short_type"]

_SHORT = {"bfloat16": "bf16", "float16": "f16", "half": "f16", "float32": "f32", "float": "f32"}
_WHOLE = frozenset({"f32", "f16", "bf16"})
_PRINTED = re.compile(r"""\bdtype['"]?\s*[=:]\s*['"]?(?:torch\.)?(bfloat16|float16|float32)\b""")


def short_type(name: str) -> str:
    """torch's `bfloat16` as `bf16`; other names as they are."""
    return _SHORT.get(name, name)


def from_dtype(
    dtype: OptionValue | None,
    log: str,
    *,
    quantization: OptionValue | None = None,
    kv_cache: OptionValue | None = None,
) -> Numerics:
    """Of an engine with an option `dtype`, which prints what it took where that was left to it."""
    found = _PRINTED.search(log) if dtype in (None, "auto") else None
    compute = short_type(found[1]) if found else None if dtype in (None, "auto") else str(dtype)
    compute = short_type(compute) if compute else None
    cache = compute if kv_cache in (None, "auto") else str(kv_cache)
    if quantization is not None:  # what such kernels multiply is not told
        return Numerics(str(quantization), None, cache)
    return Numerics(compute, compute, cache)


def from_gguf(model: ModelInfo, kv_cache: str | None) -> Numerics:
    """Of llama.cpp and what is built on it: quantized weights meet activations of 8 bits."""
    weights = model.precision
    compute = None if weights is None or weights in _WHOLE else "int8"
    return Numerics(weights, compute, kv_cache)
