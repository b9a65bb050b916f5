"""A GGUF file as a Model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from enginebench.errors import ModelError
from enginebench.types import ModelInfo
from enginebench_models.architectures import named
from enginebench_models.chat_template import ChatTemplate
from enginebench_models.config_gguf import config_from_gguf
from enginebench_models.gguf import GGUFValue, read_gguf
from enginebench_models.merged import separated
from enginebench_models.model import Model, check_weights
from enginebench_models.ordinary import ordinary_range
from enginebench_models.shape import model_shape
from enginebench_models.token_table import TokenTable
from enginebench_models.tokenizer_gguf import read_token_table, tokenizer_from_gguf
from enginebench_models.tokenizer_source import TokenizerSource
from enginebench_models.weights import Tensor, Weights

__all__ = ["chat_template_from_gguf", "open_gguf"]


def open_gguf(path: Path, name: str) -> Model:
    """Read the header of a GGUF file; `name` is what the user called it."""
    file = read_gguf(path)
    if "split.count" in file.metadata and file.metadata["split.count"] != 1:
        raise ModelError(f"{path}: is one of several parts; merge them into one file first")
    config = config_from_gguf(file)
    tensors: Iterable[Tensor] = file.tensors.values()
    if named(config.architecture).merged:
        tensors = separated(tensors, config, str(path))
    weights = Weights(tensors)
    check_weights(str(path), config, weights)
    table = read_token_table(file.metadata, str(path))
    first, end = ordinary_range(config.vocab_size, len(table.texts), table.special_ids)
    info = ModelInfo(
        name=name,
        format="gguf",
        path=str(path),
        architecture=config.architecture,
        parameters=weights.parameters,
        vocab_size=config.vocab_size,
        first_ordinary_token=first,
        ordinary_token_end=end,
        context_length=config.context_length,
        size_bytes=file.size_bytes,
        precision=weights.main_type.name.lower(),
        weight_types=weights.matrix_types,
        shape=model_shape(config, weights),
    )
    template = chat_template_from_gguf(file.metadata, table)
    source = TokenizerSource(partial(tokenizer_from_gguf, file.metadata, str(path)))
    return Model(info, config, weights, template, source)


def chat_template_from_gguf(
    metadata: Mapping[str, GGUFValue], table: TokenTable
) -> ChatTemplate | None:
    """The template and the texts of the tokens that it may name; None if the file has none."""
    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        return None
    tokens = {}
    for kind in ("bos", "eos"):
        id = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if isinstance(id, int) and 0 <= id < len(table.texts):
            tokens[f"{kind}_token"] = table.texts[id]
    return ChatTemplate(source, tokens)
