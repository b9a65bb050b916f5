"""From any model source to a GGUF file of another quantization, tensor by tensor.

    convert(open_source("folder-or-file"), Path("out.gguf"), find_mix("q4_k_m"), threads=8)

Tensors are quantized as they are written, a few rows at a time in several threads, so that memory
holds one tensor. The file appears under its name when it is whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from enginebench.errors import ModelError
from enginebench_models.block_fields import Bytes, Floats
from enginebench_models.config import ModelConfig
from enginebench_models.dequantizers import DEQUANTIZABLE, dequantize
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import GGUFValue, read_gguf
from enginebench_models.gguf_model import config_metadata, gguf_tensors
from enginebench_models.gguf_writer import write_gguf
from enginebench_models.mixes import Mix
from enginebench_models.open import open_model
from enginebench_models.quantizers import WEIGHTED, quantize
from enginebench_models.tokenizer_export import tokenizer_metadata
from enginebench_models.tokenizer_hf import read_tokenizer_files
from enginebench_models.weights import Tensor, Weights

__all__ = ["Source", "convert", "open_source"]

_SLICE_VALUES = 1 << 20
Progress = Callable[[str, int], None]  # a tensor's name, and how many more of its values are done


@dataclass(frozen=True, slots=True)
class Source:
    """What is converted: everything but the types of the tensors is taken over."""

    config: ModelConfig
    metadata: dict[str, GGUFValue]
    weights: Weights

    @property
    def quantized_types(self) -> list[GGMLType]:
        """Types of the source that have already lost precision, the smallest first."""
        types = {tensor.type for tensor in self.weights.values() if tensor.type.is_quantized}
        return sorted(types, key=lambda type: type.bits_per_weight)


def open_source(name: str) -> Source:
    """Open whatever `open_model` opens, except synthetic models, which have no words to lose."""
    model = open_model(name)
    path = Path(model.info.path or "")
    if model.info.format == "gguf":
        file = read_gguf(path)
        return Source(model.config, file.metadata, Weights(file.tensors.values()))
    if model.info.format != "hf":
        raise ModelError(f"{name}: can be quantized from a GGUF file or a Hugging Face folder only")
    files = read_tokenizer_files(path)
    metadata = config_metadata(path.resolve().name, model.config) | tokenizer_metadata(
        files, model.tokenizer, model.chat_template, model.config.vocab_size
    )
    return Source(model.config, metadata, Weights(gguf_tensors(model.weights, model.config)))


def convert(
    source: Source,
    out: Path,
    mix: Mix,
    *,
    threads: int,
    progress: Progress | None = None,
    importance: Mapping[str, Floats] | None = None,
) -> Weights:
    """Write `out`, replacing what is there; the tensors as they were written.

    `importance`: how much each column of a tensor matters, by tensor name (see `imatrix`).
    """
    targets = [
        (tensor, mix.type_of(tensor.name, tensor.shape, source.config))
        for tensor in source.weights.values()
    ]
    for tensor, _ in targets:
        if tensor.type not in DEQUANTIZABLE:
            raise ModelError(f"tensor {tensor.name!r} is {tensor.type.name}, which is not decoded")
    _check_importance(importance or {}, source.weights)
    report, known = progress or _silent, importance or {}
    with ThreadPoolExecutor(threads) as pool:
        encoded = [
            replace(
                tensor,
                type=type,
                load=partial(_encode, tensor, type, known.get(tensor.name), pool, report),
                parts=(),
            )
            for tensor, type in targets
        ]
        file_type: dict[str, GGUFValue] = {"general.file_type": mix.file_type}
        write_gguf(out, source.metadata | file_type, encoded)
    return Weights(encoded)


def _silent(name: str, n_values: int) -> None:
    """Nobody watches."""


def _check_importance(importance: Mapping[str, Floats], weights: Weights) -> None:
    """ModelError where it was made for another model."""
    for name, columns in importance.items():
        tensor = weights.get(name)
        if tensor is None or tensor.shape[-1] != columns.size:
            has = "there is none" if tensor is None else f"it has {tensor.shape[-1]}"
            raise ModelError(
                f"the importance matrix is of another model: it has {columns.size} columns of "
                f"tensor {name!r}, and here {has}"
            )


def _encode(
    tensor: Tensor, type: GGMLType, importance: Floats | None, pool: Executor, report: Progress
) -> Bytes:
    """The bytes of the tensor as `type`; those of the same type are taken over as they are."""
    data = tensor.data
    if type is tensor.type:
        if not type.is_quantized:
            _check(tensor, tensor.dequantize())
        report(tensor.name, tensor.size)
        return data
    columns = tensor.shape[-1]
    encoded = np.empty((len(data), type.row_bytes(columns)), np.uint8)

    def encode_rows(rows: slice) -> int:
        values = dequantize(data[rows], tensor.type, (rows.stop - rows.start, columns))
        _check(tensor, values)
        encoded[rows] = quantize(values, type, importance if type in WEIGHTED else None)
        return values.size

    for n_values in pool.map(encode_rows, _slices(len(data), columns)):
        report(tensor.name, n_values)
    tensor.release()
    return encoded


def _check(tensor: Tensor, values: Floats) -> None:
    if not np.isfinite(values).all():
        raise ModelError(f"tensor {tensor.name!r} holds infinities or NaN: the source is broken")


def _slices(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, math.ceil(_SLICE_VALUES / columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
