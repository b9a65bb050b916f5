"""Names of tensors: those of Hugging Face checkpoints against the canonical (GGUF) ones."""

from __future__ import annotations

__all__ = ["canonical_name", "hf_name"]

_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP_BACK = {ours: theirs for theirs, ours in _TOP.items()}
_IN_LAYER_BACK = {ours: theirs for theirs, ours in _IN_LAYER.items()}


def canonical_name(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`; unknown names stay."""
    return _TOP.get(name) or _translate(name, "model.layers.", "blk.", _IN_LAYER)


def hf_name(name: str) -> str:
    """The way back."""
    return _TOP_BACK.get(name) or _translate(name, "blk.", "model.layers.", _IN_LAYER_BACK)


def _translate(name: str, old: str, new: str, modules: dict[str, str]) -> str:
    layer, _, rest = name.removeprefix(old).partition(".")
    module, _, kind = rest.rpartition(".")
    if not name.startswith(old) or module not in modules:
        return name
    return f"{new}{layer}.{modules[module]}.{kind}"
