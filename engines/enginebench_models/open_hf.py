"""A Hugging Face folder (config.json, safetensors, tokenizer.json) as a Model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from enginebench.errors import ModelError
from enginebench.types import ModelInfo
from enginebench_models.config_hf import HFConfig, config_from_hf, read_hf_config
from enginebench_models.hf_weights import hf_weights
from enginebench_models.model import Model
from enginebench_models.ordinary import ordinary_range
from enginebench_models.shape import model_shape
from enginebench_models.tokenizer_hf import (
    chat_template_from_hf,
    read_tokenizer_files,
    tokenizer_from_hf,
)
from enginebench_models.tokenizer_source import TokenizerSource

__all__ = ["open_hf"]


def open_hf(folder: Path, name: str) -> Model:
    """Read the headers of everything in the folder; `name` is what the user called it."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: is no model folder: it has no config.json")
    kind, hf_config = read_hf_config(folder)
    config = config_from_hf(folder, kind, hf_config)
    weights = hf_weights(folder, config)
    files = read_tokenizer_files(folder)
    first, end = ordinary_range(config.vocab_size, files.n_tokens, files.special_ids)
    info = ModelInfo(
        name=name,
        format="hf",
        path=str(folder),
        architecture=config.architecture,
        parameters=weights.parameters,
        vocab_size=config.vocab_size,
        first_ordinary_token=first,
        ordinary_token_end=end,
        context_length=config.context_length,
        size_bytes=weights.size_bytes,
        precision=weights.main_type.name.lower(),
        weight_types=weights.matrix_types,
        shape=model_shape(config, weights),
    )
    source = TokenizerSource(partial(tokenizer_from_hf, files, _end_ids(hf_config)))
    return Model(info, config, weights, chat_template_from_hf(files), source)


def _end_ids(config: HFConfig) -> frozenset[int]:
    ids = config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, list) else [ids])
