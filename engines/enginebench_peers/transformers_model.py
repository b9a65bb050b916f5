"""A model as a transformers `PreTrainedModel`.

A Hugging Face folder is loaded by transformers itself. GGUF files and synthetic models are not:
transformers' own reader of GGUF wants two more packages and knows fewer types, so their weights
come dequantized from `enginebench_models`, into the same transformers class. What is measured, the
model's code and its generation, is transformers' own either way.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from enginebench.errors import ModelError
from enginebench_models.hf_names import hf_name
from enginebench_peers.hf_files import hf_config, in_halves

if TYPE_CHECKING:
    from enginebench_models import Model, ModelConfig

__all__ = ["DTYPES", "load_transformers_model"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_transformers_model(model: Model, *, dtype: str, attention: str) -> Any:
    """A `PreTrainedModel`, on the GPU if one is visible.

    `dtype` "auto" is bfloat16 there and float32 on a CPU.
    """
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    how: dict[str, Any] = {"dtype": DTYPES[dtype], "attn_implementation": attention}
    if model.info.format == "hf":
        assert model.info.path is not None
        net = AutoModelForCausalLM.from_pretrained(model.info.path, local_files_only=True, **how)
    else:
        net = _from_weights(model, **how)
    print(
        f"transformers: {model.info.name} ({model.info.precision}) computed in {dtype} "
        f"on {device}, attention {attention}, {torch.get_num_threads()} threads",
        file=sys.stderr,
        flush=True,
    )
    return net.to(device).eval()


def _from_weights(model: Model, *, dtype: torch.dtype, attn_implementation: str) -> Any:
    model.config.refuse_beyond_llama(
        "the reader of GGUF files for transformers", "use the Hugging Face folder as --model"
    )
    config = AutoConfig.for_model(model.config.architecture, **hf_config(model.config))
    with torch.device("meta"):
        net: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation
        )
    state = {
        hf_name(name): torch.from_numpy(in_halves(tensor, model)).to(dtype)
        for name, tensor in model.weights.items()
        if name != "rope_freqs.weight"
    }
    _fill(net, state, model.config)
    return net


def _fill(net: Any, state: dict[str, torch.Tensor], config: ModelConfig) -> None:
    """Put the weights in; what transformers would compute by itself is set from our config."""
    missing, unexpected = net.load_state_dict(state, strict=False, assign=True)
    net.tie_weights()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise ModelError(
            f"transformers' {type(net).__name__} wants other tensors than the model has: "
            f"missing {sorted(set(missing) - tied)}, unexpected {unexpected}"
        )
    frequencies = torch.from_numpy(config.inverse_frequencies()).float()
    rotary = net.model.rotary_emb
    for name in ("inv_freq", "original_inv_freq"):
        rotary.register_buffer(name, frequencies.clone(), persistent=False)
