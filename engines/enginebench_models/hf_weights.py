"""Tensors of a Hugging Face folder under their canonical names, and as GGUF files have them.

Merged matrices are taken apart, experts stacked, and norms that checkpoints keep less one (Gemma)
get it back. All but these norms are views.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from enginebench.errors import ModelError
from enginebench_models.architectures import named
from enginebench_models.block_fields import Bytes
from enginebench_models.config import ModelConfig
from enginebench_models.ggml_types import GGMLType
from enginebench_models.hf_names import canonical_name, hf_name
from enginebench_models.merged import separated
from enginebench_models.model import check_weights
from enginebench_models.quantizers import quantize
from enginebench_models.safetensors_file import read_safetensors_folder
from enginebench_models.weights import Tensor, Weights, stacked

__all__ = ["hf_weights"]

_EXPERT = re.compile(r"(blk\.\d+\.ffn_\w+_exps)\.(\d+)(\.weight)")


def hf_weights(folder: Path, config: ModelConfig) -> Weights:
    """All tensors, checked against the shape."""
    architecture, post_norms = named(config.architecture), config.post_norms
    tensors: Iterable[Tensor] = [
        replace(tensor, name=canonical_name(tensor.name, post_norms=post_norms))
        for tensor in read_safetensors_folder(folder)
    ]
    if config.tie_word_embeddings:  # some checkpoints carry the shared head all the same
        tensors = [tensor for tensor in tensors if tensor.name != "output.weight"]
    if architecture.merged:
        tensors = separated(tensors, config, str(folder))
    if architecture.gemma:
        tensors = [_plus_one(t) if t.name.endswith("norm.weight") else t for t in tensors]
    if config.experts is not None:
        tensors = _stacked_experts(tensors, config.experts.count, folder)
    weights = Weights(tensors)
    check_weights(str(folder), config, weights, spell=partial(hf_name, post_norms=post_norms))
    return weights


def _plus_one(tensor: Tensor) -> Tensor:
    """In float32: a sum of 16 bits would lose what the checkpoint gained by leaving 1 out."""

    def load() -> Bytes:
        return quantize(tensor.dequantize() + np.float32(1), GGMLType.F32)

    return replace(tensor, type=GGMLType.F32, load=load)


def _stacked_experts(tensors: Iterable[Tensor], count: int, folder: Path) -> Iterator[Tensor]:
    """One tensor for the experts of a layer; the gate of the shared one as the vector it is."""
    experts: dict[str, dict[int, Tensor]] = {}
    for tensor in tensors:
        found = _EXPERT.fullmatch(tensor.name)
        if found is not None:
            experts.setdefault(found[1] + found[3], {})[int(found[2])] = tensor
        elif tensor.name.endswith("ffn_gate_inp_shexp.weight") and tensor.shape[0] == 1:
            yield replace(tensor, shape=tensor.shape[1:])
        else:
            yield tensor
    for name, parts in experts.items():
        if sorted(parts) != list(range(count)) or len({p.shape for p in parts.values()}) > 1:
            raise ModelError(f"{folder}: {hf_name(name)}: there are not {count} alike experts")
        yield stacked(name, [parts[number] for number in range(count)], experts=True)
