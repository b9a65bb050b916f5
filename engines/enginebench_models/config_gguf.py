"""ModelConfig from the metadata of a GGUF file."""

from __future__ import annotations

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models.architectures import Architecture, of_gguf
from enginebench_models.config import Experts, ModelConfig
from enginebench_models.gguf import GGUFFile
from enginebench_models.gguf_keys import Keys
from enginebench_models.rope_gguf import rope_scaling_from_gguf

__all__ = ["config_from_gguf"]


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """Read the shape; ModelError names a key that is missing, odd, or not supported."""
    keys = Keys(file, _architecture_name(file))
    architecture = _architecture(keys)
    n_heads, hidden = keys.integer("attention.head_count"), keys.integer("embedding_length")
    if n_heads <= 0:
        raise ModelError(f"{file.path}: {keys.architecture}.attention.head_count is {n_heads}")
    head_dim = keys.integer("attention.key_length", default=hidden // n_heads)
    _refuse_partial_rotation(keys, head_dim)
    n_layers = keys.integer("block_count")
    experts = _experts(keys, architecture)
    window = keys.integer("attention.sliding_window", default=0) or None
    return ModelConfig(
        architecture=architecture.name,
        n_layers=n_layers,
        hidden_size=hidden,
        intermediate_size=keys.integer(
            "feed_forward_length", default=None if experts is None else experts.size
        ),
        n_heads=n_heads,
        n_kv_heads=keys.integer("attention.head_count_kv", default=n_heads),
        head_dim=head_dim,
        vocab_size=_vocabulary_size(file),
        context_length=keys.integer("context_length"),
        rope_theta=keys.number("rope.freq_base", default=10_000.0),
        rope_scaling=rope_scaling_from_gguf(keys, head_dim),
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        rope_pairs=architecture.gguf_pairs,
        sliding_window=window,
        sliding_layers=None if window is None else _sliding_layers(keys, architecture, n_layers),
        sliding_rope_theta=keys.optional("rope.freq_base_swa") or architecture.sliding_rope_theta,
        attention_scale=_attention_scale(keys, architecture, n_layers, hidden // n_heads),
        attention_softcap=keys.optional("attn_logit_softcapping"),
        final_softcap=keys.optional("final_logit_softcapping"),
        embedding_scale=hidden**0.5 if architecture.gemma else None,
        activation="gelu_tanh" if architecture.gemma else "silu",
        post_norms=architecture.gemma,
        experts=experts,
    )


def _architecture_name(file: GGUFFile) -> str:
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelError(f"{file.path}: general.architecture is missing or no text: not a model")
    return name


def _architecture(keys: Keys) -> Architecture:
    has_experts = keys.integer("expert_count", default=0) > 0
    try:
        return of_gguf(keys.architecture, has_experts=has_experts)
    except UnknownNameError as error:
        raise ModelError(f"{keys.file.path}: {error}") from None


def _experts(keys: Keys, architecture: Architecture) -> Experts | None:
    if not architecture.has_experts:
        return None
    return Experts(
        count=keys.integer("expert_count"),
        used=keys.integer("expert_used_count"),
        size=keys.integer("expert_feed_forward_length", default=0)
        or keys.integer("feed_forward_length"),
        normalized=keys.flag("expert_weights_norm", default=architecture.normalizes_experts),
        shared_size=_shared_size(keys),
    )


def _shared_size(keys: Keys) -> int | None:
    """By the tensor itself: older files do not say it."""
    tensor = keys.file.tensors.get("blk.0.ffn_up_shexp.weight")
    return None if tensor is None else tensor.shape[0]


def _refuse_partial_rotation(keys: Keys, head_dim: int) -> None:
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


def _sliding_layers(keys: Keys, architecture: Architecture, n_layers: int) -> tuple[bool, ...]:
    """A pattern in the file is a period, or a flag for each layer."""
    flags = keys.flags("attention.sliding_window_pattern", n_layers)
    if flags is not None:
        return flags
    stated = keys.integer("attention.sliding_window_pattern", default=0)
    return architecture.sliding_layers(n_layers, stated)


def _attention_scale(
    keys: Keys, architecture: Architecture, n_layers: int, even_head_dim: int
) -> float | None:
    stated = keys.optional("attention.scale")
    if stated is None and n_layers == architecture.wide_layers:
        return float(even_head_dim**-0.5)
    return stated
