"""Which tensor of a quantized model gets which type: the mixes that go by names like `q4_k_m`.

The rules are those of llama.cpp without an importance matrix, so that a name means
the same file everywhere (`llama_tensor_get_type` and `tensor_type_fallback` in
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp):

- vectors, and the matrices by which experts are chosen, stay F32;
- the output head (the embedding table, if the two are one) is Q6_K in every quantized mix but q8_0;
- value and down projections get more bits, in the `_m` mixes in some layers only;
- what eight experts share gets more bits, being small beside them;
- where a row is no whole number of blocks, a type with smaller blocks takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enginebench.errors import UnknownNameError
from enginebench_models.config import ModelConfig
from enginebench_models.ggml_types import GGMLType

__all__ = ["MIX_NAMES", "Mix", "find_mix"]

_T = GGMLType
_FALLBACKS = {
    _T.Q2_K: _T.Q4_0,
    _T.Q3_K: _T.Q4_0,
    _T.IQ4_XS: _T.IQ4_NL,
    _T.Q4_K: _T.Q5_0,
    _T.Q5_K: _T.Q5_1,
    _T.Q6_K: _T.Q8_0,
}
# Mixes in which the attention outputs of models with eight experts get five bits.
_FINER_OUTPUTS = ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a model a matrix is: its role (`ffn_down` ...) and its layer."""

    role: str
    layer: int
    config: ModelConfig

    def among_first(self, fraction: int) -> bool:
        """Whether the layer is in the first 1/fraction of all."""
        return self.layer < self.config.n_layers // fraction

    @property
    def wants_more_bits(self) -> bool:
        """The first and the last eighth of the layers, and every third between."""
        n, eighth = self.config.n_layers, self.config.n_layers // 8
        return self.layer < eighth or self.layer >= 7 * n // 8 or (self.layer - eighth) % 3 == 2

    @property
    def has_eight_experts(self) -> bool:
        return self.config.experts is not None and self.config.experts.count == 8

    @property
    def shares_values(self) -> bool:
        """Four or more query heads share a value head: it is small, and errors in it count."""
        return self.config.n_heads // self.config.n_kv_heads >= 4


Rule = Callable[[_Place], GGMLType | None]  # None: the mix's main type


def _q2_k(at: _Place) -> GGMLType | None:
    if at.role == "attn_v":
        return _T.Q4_K if at.shares_values else _T.Q3_K
    return _T.Q3_K if at.role in ("ffn_down", "attn_output") else None


def _q3_k_m(at: _Place) -> GGMLType | None:
    if at.role == "attn_v":
        return _T.Q5_K if at.layer < 2 else _T.Q4_K
    if at.role == "attn_qkv":
        return _T.Q4_K
    if at.role == "ffn_down":
        return _T.Q5_K if at.among_first(16) else _T.Q4_K
    return _T.Q4_K if at.role == "attn_output" else None


def _q3_k_l(at: _Place) -> GGMLType | None:
    if at.role == "attn_qkv":
        return _T.Q4_K
    return _T.Q5_K if at.role in ("attn_v", "ffn_down", "attn_output") else None


def _q4_k_s(at: _Place) -> GGMLType | None:
    finer = (at.role == "attn_v" and at.layer < 4) or (at.role == "ffn_down" and at.among_first(8))
    return _T.Q5_K if finer else None


def _medium(at: _Place) -> GGMLType | None:
    return _T.Q6_K if at.role in ("attn_v", "ffn_down") and at.wants_more_bits else None


def _q4_k_m(at: _Place) -> GGMLType | None:
    return _T.Q5_K if at.role == "attn_qkv" else _medium(at)


def _q5_k_m(at: _Place) -> GGMLType | None:
    return _T.Q6_K if at.role == "attn_qkv" else _medium(at)


def _iq4(at: _Place) -> GGMLType | None:
    finer = (at.role == "attn_v" and at.shares_values) or (
        at.role == "ffn_down" and at.among_first(8)
    )
    return _T.Q5_K if finer else None


def _same(at: _Place) -> GGMLType | None:
    return None


@dataclass(frozen=True, slots=True)
class Mix:
    """A named assignment of types; `file_type` is its number in `general.file_type`."""

    name: str
    main: GGMLType
    file_type: int
    rule: Rule = _same

    def type_of(self, tensor: str, shape: tuple[int, ...], config: ModelConfig) -> GGMLType:
        """The type of a tensor by its canonical name; rows must fit the blocks of a fallback."""
        if len(shape) == 1 or tensor.endswith("ffn_gate_inp.weight"):
            return _T.F32
        return _fitting(self._wanted(tensor, shape, config), shape[-1])

    def _wanted(self, tensor: str, shape: tuple[int, ...], config: ModelConfig) -> GGMLType:
        if not self.main.is_quantized:
            return self.main
        head = "token_embd.weight" if config.tie_word_embeddings else "output.weight"
        if tensor == head:
            fits = shape[-1] % self.main.block_size == 0
            return _T.Q6_K if fits and self.main is not _T.Q8_0 else _T.Q8_0
        if not tensor.startswith("blk."):
            return self.main
        _, layer, name, _ = tensor.split(".")
        role = name.removesuffix("_exps").removesuffix("_shexp")
        place = _Place(role, int(layer), config)
        wanted = self.rule(place) or self.main
        if place.has_eight_experts and role in ("attn_v", "attn_k"):
            return _T.Q8_0
        if place.has_eight_experts and role == "attn_output":
            return _T.Q5_K if self.name in _FINER_OUTPUTS else self.main
        if role == "attn_v" and _is_70b(config) and wanted in (_T.Q3_K, _T.Q4_K):
            return _T.Q5_K
        return wanted


def _is_70b(config: ModelConfig) -> bool:
    """The one size whose value projections, shared by eight heads, always get five bits."""
    shared = config.architecture != "llama" or config.n_kv_heads != config.n_heads
    return config.n_layers == 80 and shared


def _fitting(type: GGMLType, columns: int) -> GGMLType:
    if columns % type.block_size:
        type = _FALLBACKS.get(type, _T.F16)
    return _T.F16 if columns % type.block_size else type


_MIXES = {
    mix.name: mix
    for mix in (
        Mix("f32", _T.F32, 0),
        Mix("f16", _T.F16, 1),
        Mix("bf16", _T.BF16, 32),
        Mix("q4_0", _T.Q4_0, 2),
        Mix("q4_1", _T.Q4_1, 3),
        Mix("q5_0", _T.Q5_0, 8),
        Mix("q5_1", _T.Q5_1, 9),
        Mix("q8_0", _T.Q8_0, 7),
        Mix("q2_k", _T.Q2_K, 10, _q2_k),
        Mix("q3_k_s", _T.Q3_K, 11),
        Mix("q3_k_m", _T.Q3_K, 12, _q3_k_m),
        Mix("q3_k_l", _T.Q3_K, 13, _q3_k_l),
        Mix("q4_k_s", _T.Q4_K, 14, _q4_k_s),
        Mix("q4_k_m", _T.Q4_K, 15, _q4_k_m),
        Mix("q5_k_s", _T.Q5_K, 16),
        Mix("q5_k_m", _T.Q5_K, 17, _q5_k_m),
        Mix("q6_k", _T.Q6_K, 18),
        Mix("iq4_nl", _T.IQ4_NL, 25, _iq4),
        Mix("iq4_xs", _T.IQ4_XS, 30, _iq4),
    )
}
_SHORT = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
MIX_NAMES = tuple(_MIXES)


def find_mix(name: str) -> Mix:
    """The mix of that name, in any case; `q4_k` is `q4_k_m`, and so on."""
    key = name.lower()
    key = _SHORT.get(key, key)
    if key not in _MIXES:
        raise UnknownNameError("quantization", name, MIX_NAMES)
    return _MIXES[key]
