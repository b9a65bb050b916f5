"""A model's weights on the device, in the groups in which a layer reads them.

Matrices that are read together and have one type stand below each other in one set of planes. Rows
of queries and keys that pair adjacent elements are brought to halves on the way: the kernels know
one kind of rotation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from enginebench.errors import ModelError
from enginebench_models import Model, ModelConfig
from enginebench_models import Tensor as ModelTensor
from enginebench_quant.gpu.synthetic import fill_dense, fill_planes
from enginebench_quant.gpu.upload import Uploader
from enginebench_quant.kernels.gpu.planes import FORMATS, Planes, empty_planes, repack

__all__ = ["GPU_TYPES", "LayerWeights", "Matrix", "Weights", "matrix_shape", "refuse_foreign"]

Matrix = Planes | torch.Tensor  # a tensor: numbers that are not quantized
DENSE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
GPU_TYPES = (*DENSE, *FORMATS)


def matrix_shape(matrix: Matrix) -> tuple[int, int]:
    """Rows and columns."""
    if isinstance(matrix, Planes):
        return matrix.rows, matrix.columns
    return matrix.shape[0], matrix.shape[1]


def n_bytes(matrix: Matrix) -> int:
    """What a product reads of it."""
    return matrix.n_bytes if isinstance(matrix, Planes) else matrix.nbytes


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. `qkv` and `gate_up` are one matrix each if their parts have one type."""

    attention_norm: torch.Tensor
    qkv: tuple[Matrix, ...]
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Matrix
    ffn_norm: torch.Tensor
    gate_up: tuple[Matrix, ...]
    down: Matrix
    post_attention_norm: torch.Tensor | None  # of what a part yields, before it is added
    post_ffn_norm: torch.Tensor | None

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return (*self.qkv, self.output, *self.gate_up, self.down)


class Weights:
    """All of a model, or of a part that ends in the head; `embedding` is None where a part does not
    `begin` with the tokens. Embedding and head are one if they are tied.
    """

    def __init__(self, model: Model, device: torch.device, *, begins: bool = True) -> None:
        self._model, self._device = model, device
        self._uploader = Uploader(device)
        self._random = torch.Generator(device)
        refuse_foreign(model)
        config = model.config
        self.layers = [self._layer(index) for index in range(config.n_layers)]
        self.output_norm = self._vector("output_norm.weight")
        tied = config.tie_word_embeddings
        head = self._merged(["token_embd.weight" if tied else "output.weight"])[0]
        self.head, self.embedding = head, head if begins else None
        if begins and not tied:
            self.embedding = self._merged(["token_embd.weight"])[0]

    @property
    def bytes_per_token(self) -> int:
        """What one step of decoding reads, the row of the embedding aside."""
        layers = sum(n_bytes(matrix) for layer in self.layers for matrix in layer.matrices)
        return layers + n_bytes(self.head)

    def _layer(self, index: int) -> LayerWeights:
        prefix = f"blk.{index}."
        qkv = [f"{prefix}attn_{part}" for part in "qkv"]
        return LayerWeights(
            attention_norm=self._vector(f"{prefix}attn_norm.weight"),
            qkv=self._merged([f"{name}.weight" for name in qkv]),
            qkv_bias=self._bias([f"{name}.bias" for name in qkv]),
            q_norm=self._optional(f"{prefix}attn_q_norm.weight"),
            k_norm=self._optional(f"{prefix}attn_k_norm.weight"),
            output=self._merged([f"{prefix}attn_output.weight"])[0],
            ffn_norm=self._vector(f"{prefix}ffn_norm.weight"),
            gate_up=self._merged([f"{prefix}ffn_gate.weight", f"{prefix}ffn_up.weight"]),
            down=self._merged([f"{prefix}ffn_down.weight"])[0],
            post_attention_norm=self._optional(f"{prefix}post_attention_norm.weight"),
            post_ffn_norm=self._optional(f"{prefix}post_ffw_norm.weight"),
        )

    # ---- vectors

    def _vector(self, name: str) -> torch.Tensor:
        tensor = self._model.weights[name]
        values = torch.from_numpy(tensor.dequantize()).to(self._device)
        order = self._row_order(name)
        return values if order is None else values[order]

    def _optional(self, name: str) -> torch.Tensor | None:
        return self._vector(name) if name in self._model.weights else None

    def _bias(self, names: Sequence[str]) -> torch.Tensor | None:
        if names[0] not in self._model.weights:
            return None
        return torch.cat([self._vector(name) for name in names])

    # ---- matrices

    def _merged(self, names: Sequence[str]) -> tuple[Matrix, ...]:
        tensors = [self._model.weights[name] for name in names]
        runs = [list(run) for _, run in groupby(tensors, key=lambda tensor: tensor.type)]
        return tuple(self._load(run) for run in runs)

    def _load(self, tensors: Sequence[ModelTensor]) -> Matrix:
        """Tensors of one type below each other."""
        kind = tensors[0].type.name
        rows, columns = sum(t.shape[0] for t in tensors), tensors[0].shape[1]
        matrix: Matrix
        if kind in DENSE:
            matrix = torch.empty((rows, columns), dtype=DENSE[kind], device=self._device)
        else:
            matrix = empty_planes(kind, rows, columns, self._device)
        begin = 0
        for tensor in tensors:
            end = begin + tensor.shape[0]
            part = matrix.slice(begin, end) if isinstance(matrix, Planes) else matrix[begin:end]
            self._fill(tensor, part)
            begin = end
        return matrix

    def _fill(self, tensor: ModelTensor, part: Matrix) -> None:
        if self._model.info.format == "synthetic":
            self._random.manual_seed(_seed(tensor.name))
            if isinstance(part, Planes):
                fill_planes(part, self._random)
            else:
                fill_dense(part, self._random)
            return
        order = self._row_order(tensor.name)
        data = tensor.data
        if order is not None:  # rows are few enough here for a copy
            data = data[order.cpu().numpy()]
        for begin, raw in self._uploader.pieces(data):
            end = begin + raw.shape[0]
            if isinstance(part, Planes):
                repack(raw, part.slice(begin, end))
            else:
                part[begin:end] = raw.view(part.dtype)
        tensor.release()

    def _row_order(self, name: str) -> torch.Tensor | None:
        """How rows of a query or key tensor are permuted; None: as they are."""
        heads = _rotated_heads(self._model.config, name)
        if heads is None:
            return None
        head_dim = self._model.config.head_dim
        within = torch.arange(head_dim).view(-1, 2).T.reshape(-1)
        order = (torch.arange(heads)[:, None] * head_dim + within).reshape(-1)
        return order.to(self._device)


def _rotated_heads(config: ModelConfig, name: str) -> int | None:
    """Heads of a tensor whose rows rotate in adjacent pairs; None for all others."""
    if config.rope_pairs == "halves" or ".attn_" not in name:
        return None
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}
    heads |= {"attn_q_norm": 1, "attn_k_norm": 1}
    return heads.get(name.split(".")[2])


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def refuse_foreign(model: Model) -> None:
    """ModelError for what has no GPU kernel."""
    if model.config.experts is not None:
        raise ModelError(
            f"quant does not compute mixtures of experts on a GPU, which {model.info.name} is: "
            "run on hardware cpu, or take the engine paged"
        )
    for tensor in model.weights.values():
        if len(tensor.shape) == 2 and tensor.type.name not in GPU_TYPES:
            raise ModelError(
                f"quant: tensor {tensor.name!r} is {tensor.type.name}, which has no GPU kernel "
                f"(there are: {', '.join(GPU_TYPES)}); requantize the model to one of these"
            )
