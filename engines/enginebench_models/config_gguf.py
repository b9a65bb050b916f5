"""ModelConfig from the metadata of a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.config import ModelConfig, RopeScaling
from enginebench_models.gguf import GGUFFile

__all__ = ["config_from_gguf"]

# How files of each architecture order the rows of q and k (see ModelConfig.rope_pairs).
_ROPE_PAIRS: dict[str, Literal["adjacent", "halves"]] = {
    "llama": "adjacent",
    "qwen2": "halves",
    "qwen3": "halves",
}


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """Read the shape; ModelError names a key that is missing, odd, or not supported."""
    architecture = _architecture(file)
    keys = _Keys(file, architecture)
    _refuse_experts(keys)
    n_heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    if n_heads <= 0:
        raise ModelError(f"{file.path}: {architecture}.attention.head_count is {n_heads}")
    head_dim = keys.integer("attention.key_length", default=hidden // n_heads)
    _refuse_partial_rotation(keys, head_dim)
    return ModelConfig(
        architecture=architecture,
        n_layers=keys.integer("block_count"),
        hidden_size=hidden,
        intermediate_size=keys.integer("feed_forward_length"),
        n_heads=n_heads,
        n_kv_heads=keys.integer("attention.head_count_kv", default=n_heads),
        head_dim=head_dim,
        vocab_size=_vocabulary_size(file),
        context_length=keys.integer("context_length"),
        rope_theta=keys.number("rope.freq_base", default=10_000.0),
        rope_scaling=_rope_scaling(keys, head_dim),
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        rope_pairs=_ROPE_PAIRS[architecture],
        sliding_window=keys.integer("attention.sliding_window", default=0) or None,
    )


def _architecture(file: GGUFFile) -> str:
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelError(f"{file.path}: general.architecture is missing or no text: not a model")
    if name not in _ROPE_PAIRS:
        raise ModelError(f"{file.path}: {UnknownNameError('architecture', name, _ROPE_PAIRS)}")
    return name


@dataclass(frozen=True, slots=True)
class _Keys:
    """Typed access to the metadata keys under the architecture's name."""

    file: GGUFFile
    architecture: str

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.architecture}.{key}"
        value = self.file.metadata.get(name, default)
        if value is None:
            raise ModelError(f"{self.file.path}: metadata {name!r} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{self.file.path}: metadata {name!r} is no single number")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not isinstance(value, int):
            raise ModelError(f"{self.file.path}: {self.architecture}.{key} is {value}, no integer")
        return value

    def text(self, key: str, default: str) -> str:
        return str(self.file.metadata.get(f"{self.architecture}.{key}", default))


def _refuse_experts(keys: _Keys) -> None:
    experts = keys.integer("expert_count", default=0)
    if experts:
        raise ModelError(f"{keys.file.path}: mixtures of experts ({experts}) are not supported")


def _refuse_partial_rotation(keys: _Keys, head_dim: int) -> None:
    rotated = keys.integer("rope.dimension_count", default=head_dim)
    if rotated != head_dim:
        raise ModelError(
            f"{keys.file.path}: rotates {rotated} of {head_dim} dimensions of a head; "
            "only full rotation is supported"
        )


def _vocabulary_size(file: GGUFFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"{file.path}: tensor 'token_embd.weight' is missing")
    return file.tensors["token_embd.weight"].shape[0]


def _rope_scaling(keys: _Keys, head_dim: int) -> RopeScaling | None:
    if "rope_freqs.weight" in keys.file.tensors:
        return _frequency_factors(keys.file, head_dim)
    kind = keys.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=keys.number("rope.scaling.factor"))
    raise ModelError(
        f"{keys.file.path}: RoPE scaling {kind!r} is not supported (known: linear, none)"
    )


def _frequency_factors(file: GGUFFile, head_dim: int) -> RopeScaling:
    tensor = file.tensors["rope_freqs.weight"]
    if tensor.shape != (head_dim // 2,):
        raise ModelError(f"{file.path}: rope_freqs.weight is {tensor.shape}, not {head_dim // 2}")
    return RopeScaling("factors", frequency_factors=tuple(tensor.dequantize().tolist()))
