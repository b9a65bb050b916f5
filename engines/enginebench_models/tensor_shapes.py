"""Every tensor that a model of some shape has, by its canonical (GGUF) name."""

from __future__ import annotations

from enginebench_models.config import Experts, ModelConfig

__all__ = ["expected_shapes"]

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: ModelConfig) -> Shapes:
    """All tensors in file order. Experts of a layer are one tensor, (experts, rows, columns)."""
    shapes: Shapes = {"token_embd.weight": (config.vocab_size, config.hidden_size)}
    for layer in range(config.n_layers):
        for name, shape in _layer_shapes(config).items():
            shapes[f"blk.{layer}.{name}"] = shape
    shapes["output_norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["output.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def _layer_shapes(config: ModelConfig) -> Shapes:
    norm = (config.hidden_size,)
    shapes: Shapes = {"attn_norm.weight": norm} | _attention_shapes(config)
    if config.post_norms:
        shapes["post_attention_norm.weight"] = norm
    shapes["ffn_norm.weight"] = norm
    if config.experts is None:
        shapes |= _dense_shapes(config.hidden_size, config.intermediate_size)
    else:
        shapes |= _expert_shapes(config.hidden_size, config.experts)
    if config.post_norms:
        shapes["post_ffw_norm.weight"] = norm
    return shapes


def _attention_shapes(config: ModelConfig) -> Shapes:
    hidden = config.hidden_size
    q_size, kv_size = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: Shapes = {}
    for name, size in {"attn_q": q_size, "attn_k": kv_size, "attn_v": kv_size}.items():
        shapes[f"{name}.weight"] = (size, hidden)
        if config.attention_bias:
            shapes[f"{name}.bias"] = (size,)
    if config.qk_norm:
        shapes["attn_q_norm.weight"] = shapes["attn_k_norm.weight"] = (config.head_dim,)
    shapes["attn_output.weight"] = (hidden, q_size)
    return shapes


def _dense_shapes(hidden: int, inner: int, suffix: str = "") -> Shapes:
    return {
        f"ffn_gate{suffix}.weight": (inner, hidden),
        f"ffn_up{suffix}.weight": (inner, hidden),
        f"ffn_down{suffix}.weight": (hidden, inner),
    }


def _expert_shapes(hidden: int, experts: Experts) -> Shapes:
    shapes: Shapes = {"ffn_gate_inp.weight": (experts.count, hidden)}
    for name, shape in _dense_shapes(hidden, experts.size, "_exps").items():
        shapes[name] = (experts.count, *shape)
    if experts.shared_size is not None:
        shapes["ffn_gate_inp_shexp.weight"] = (hidden,)
        shapes |= _dense_shapes(hidden, experts.shared_size, "_shexp")
    return shapes
