"""RopeScaling from GGUF metadata and tensors, and back."""

from __future__ import annotations

import math

import numpy as np

from enginebench.errors import ModelError
from enginebench_models.config import ModelConfig
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import GGUFFile, GGUFValue
from enginebench_models.gguf_keys import Keys
from enginebench_models.quantizers import quantize
from enginebench_models.rope_scaling import RopeScaling
from enginebench_models.weights import Tensor

__all__ = ["rope_metadata", "rope_scaling_from_gguf", "rope_tensors"]

_FACTORS, _SHORT, _LONG = (
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
)


def rope_scaling_from_gguf(keys: Keys, head_dim: int) -> RopeScaling | None:
    """None where frequencies stay as they are."""
    file = keys.file
    if _FACTORS in file.tensors:
        return RopeScaling("factors", frequency_factors=_read(file, _FACTORS, head_dim))
    if _SHORT in file.tensors:
        return RopeScaling(
            "longrope",
            frequency_factors=_read(file, _SHORT, head_dim),
            long_frequency_factors=_read(file, _LONG, head_dim),
            original_context_length=keys.integer("rope.scaling.original_context_length"),
            magnitude=keys.number("rope.scaling.attn_factor", default=1.0),
        )
    kind = keys.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=keys.number("rope.scaling.factor"))
    if kind == "yarn":
        return _yarn(keys)
    raise ModelError(
        f"{file.path}: RoPE scaling {kind!r} is not supported (known: linear, yarn, none)"
    )


def _yarn(keys: Keys) -> RopeScaling:
    """`attn_factor` stands on top of the magnitude that the method has by itself."""
    factor = keys.number("rope.scaling.factor")
    return RopeScaling(
        "yarn",
        factor=factor,
        original_context_length=keys.integer("rope.scaling.original_context_length"),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", default=32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", default=1.0),
        magnitude=keys.number("rope.scaling.attn_factor", default=1.0) * _yarn_magnitude(factor),
    )


def _yarn_magnitude(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _read(file: GGUFFile, name: str, head_dim: int) -> tuple[float, ...]:
    if name not in file.tensors:
        raise ModelError(f"{file.path}: tensor {name!r} is missing")
    tensor = file.tensors[name]
    if tensor.shape != (head_dim // 2,):
        raise ModelError(f"{file.path}: {name} is {tensor.shape}, not {head_dim // 2}")
    return tuple(tensor.dequantize().tolist())


# ---------------------------------------------------------------- writing


def rope_metadata(scaling: RopeScaling | None) -> dict[str, GGUFValue]:
    """Keys without the architecture's name."""
    if scaling is None or scaling.kind in ("factors", "llama3"):
        return {}
    original: dict[str, GGUFValue] = {
        "rope.scaling.original_context_length": scaling.original_context_length
    }
    if scaling.kind == "longrope":
        return original | {"rope.scaling.attn_factor": scaling.magnitude}
    keys: dict[str, GGUFValue] = {
        "rope.scaling.type": scaling.kind,
        "rope.scaling.factor": scaling.factor,
    }
    if scaling.kind == "linear":
        return keys
    keys |= original
    keys["rope.scaling.attn_factor"] = scaling.magnitude / _yarn_magnitude(scaling.factor)
    keys["rope.scaling.yarn_beta_fast"] = scaling.beta_fast
    keys["rope.scaling.yarn_beta_slow"] = scaling.beta_slow
    return keys


def rope_tensors(config: ModelConfig) -> list[Tensor]:
    """Factors that GGUF holds as tensors."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind in ("linear", "yarn"):
        return []
    if scaling.kind == "longrope":
        both = {_LONG: scaling.long_frequency_factors, _SHORT: scaling.frequency_factors}
        return [_tensor(name, np.array(factors)) for name, factors in both.items()]
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    return [_tensor(_FACTORS, config.rope_theta**-exponents / config.inverse_frequencies())]


def _tensor(name: str, factors: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
    data = quantize(factors.astype(np.float32), GGMLType.F32)
    return Tensor(name, GGMLType.F32, factors.shape, lambda: data)
