"""Names of tensors: those of Hugging Face checkpoints against the canonical (GGUF) ones."""

from __future__ import annotations

import re

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
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.*.gate_proj": "ffn_gate_exps.*",
    "mlp.experts.*.up_proj": "ffn_up_exps.*",
    "mlp.experts.*.down_proj": "ffn_down_exps.*",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
_POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_ONLY_IN_FILES = {
    "mlp.gate_up_proj": "ffn_up",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.*.w1": "ffn_gate_exps.*",
    "block_sparse_moe.experts.*.w2": "ffn_down_exps.*",
    "block_sparse_moe.experts.*.w3": "ffn_up_exps.*",
}
_TOP_BACK = {ours: theirs for theirs, ours in _TOP.items()}
_IN_LAYER_BACK = {ours.removesuffix(".*"): theirs for theirs, ours in _IN_LAYER.items()}
_POST_NORMS_BACK = {ours: theirs for theirs, ours in _POST_NORMS.items()}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def canonical_name(name: str, *, post_norms: bool = False) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`; unknown names stay.

    `post_norms`: the model has norms behind its parts too, and "post attention" is such a one.
    A single expert's tensor gets its number: `blk.0.ffn_up_exps.7.weight`.
    """
    modules = _IN_LAYER | _ONLY_IN_FILES | (_POST_NORMS if post_norms else {})
    return _TOP.get(name) or _translate(name, "model.layers.", "blk.", modules)


def hf_name(name: str, *, post_norms: bool = False) -> str:
    """The way back; all experts of a layer together have a star for their number."""
    modules = _IN_LAYER_BACK | (_POST_NORMS_BACK if post_norms else {})
    return _TOP_BACK.get(name) or _translate(name, "blk.", "model.layers.", modules)


def _translate(name: str, old: str, new: str, modules: dict[str, str]) -> str:
    layer, _, rest = name.removeprefix(old).partition(".")
    module, _, kind = rest.rpartition(".")
    numbers = _NUMBER.findall(module)
    found = modules.get(_NUMBER.sub("*", module))
    if not name.startswith(old) or found is None:
        return name
    return f"{new}{layer}.{found.replace('*', numbers[0] if numbers else '*')}.{kind}"
