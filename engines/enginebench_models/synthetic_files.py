"""Writes a synthetic model as a GGUF file or a Hugging Face folder, for whoever wants files.

Weights keep their type byte by byte, so both hold the same model; a folder takes float types only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import decoders

from enginebench.errors import ModelError
from enginebench_models.architectures import named
from enginebench_models.config import ModelConfig
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf_model import config_metadata, gguf_tensors
from enginebench_models.gguf_writer import write_gguf
from enginebench_models.hf_names import hf_name
from enginebench_models.model import Model
from enginebench_models.synthetic import open_synthetic
from enginebench_models.synthetic_vocabulary import vocabulary_metadata
from enginebench_models.weights import Weights

__all__ = ["write_synthetic_gguf", "write_synthetic_hf"]

_SAFETENSORS_TYPES = {GGMLType.F32: "F32", GGMLType.F16: "F16", GGMLType.BF16: "BF16"}
_TORCH_TYPES = {GGMLType.F32: "float32", GGMLType.F16: "float16", GGMLType.BF16: "bfloat16"}


def write_synthetic_gguf(name: str, path: Path) -> None:
    """Write `synthetic:NAME[@TYPE]` to a file that any GGUF engine can load."""
    model = open_synthetic(name)
    config = model.config
    metadata = config_metadata(name, config) | vocabulary_metadata(config.vocab_size)
    write_gguf(path, metadata, gguf_tensors(model.weights, config))


def write_synthetic_hf(name: str, folder: Path) -> None:
    """Write `synthetic:NAME[@TYPE]` into `folder`: config.json, safetensors, tokenizer files."""
    model = open_synthetic(name)
    if model.weights.main_type not in _SAFETENSORS_TYPES:
        known = ", ".join(type.name.lower() for type in _SAFETENSORS_TYPES)
        raise ModelError(f"{name}: safetensors hold no quantized weights (possible: {known})")
    model.config.refuse_beyond_llama(f"a folder of {name}", "write a GGUF file")
    if named(model.config.architecture).merged:
        raise ModelError(f"{name}: folders with merged matrices are not written; take a GGUF file")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _hf_config(model))
    _write_safetensors(folder / "model.safetensors", model.weights)
    tokenizer, template = model.tokenizer.parsing, model.chat_template
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    assert template is not None
    settings = dict(template.special_tokens) | {"chat_template": template.source}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}
    _write_json(folder / "tokenizer_config.json", settings | kind)


# ---------------------------------------------------------------- Hugging Face


def _hf_config(model: Model) -> dict[str, Any]:
    config, main_type = model.config, model.weights.main_type
    kind = config.architecture
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _hf_rope_scaling(config),
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": sorted(model.tokenizer.eos_ids),
        "torch_dtype": _TORCH_TYPES[main_type],
    }


def _hf_rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    return {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_length,
    }


def _write_safetensors(path: Path, weights: Weights) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in weights.values():
        begin, end = end, end + tensor.size_bytes
        header[hf_name(tensor.name)] = {
            "dtype": _SAFETENSORS_TYPES[tensor.type],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in weights.values():
            file.write(tensor.data.data)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
