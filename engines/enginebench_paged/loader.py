"""Weights on their device, in the run's dtype and in the layout that `model` computes with.

Q, K and V are merged into one matrix, gate and up into another, the experts of a layer into two
tensors. Rotary pairs always lie in halves:
rows that a file keeps as adjacent pairs are reordered. A tensor is read a few rows at a time
straight into its place, so loading never holds a second copy of anything big. Synthetic weights
are drawn on the device.

Norms stay float32: they are small, and every kernel takes them so.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch

from enginebench_models import GGMLType, Model, ModelConfig, dequantize
from enginebench_models import Tensor as FileTensor
from enginebench_models.weights import expert_tensors
from enginebench_paged.feed_forward import Dense, Mixture
from enginebench_paged.kernels.quantized_weight import QuantizedWeight, quantize
from enginebench_paged.parallel.shards import Shard
from enginebench_paged.projection import Projection
from enginebench_paged.quantization import Quantization

__all__ = ["LayerWeights", "ModelWeights", "load"]

_CHUNK_VALUES = 4 << 20
_PLAIN = {
    GGMLType.F32: torch.float32,
    GGMLType.F16: torch.float16,
    GGMLType.BF16: torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer layer; absent parts are None."""

    input_norm: torch.Tensor
    qkv: Projection  # (heads + 2 * kv_heads) * head_dim rows
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Projection
    output_norm: torch.Tensor | None
    mlp_norm: torch.Tensor
    feed_forward: Dense | Mixture
    feed_forward_norm: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights. A tied `head` is the embedding itself (but where a CPU packs it)."""

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    head: Projection

    @property
    def size_and_bits(self) -> tuple[int, int]:
        """Values of the matrices that tokens are multiplied with; their bits, scales included."""
        size, bits = self.head.size, self.head.bits
        for layer in self.layers:
            inner_size, inner_bits = layer.feed_forward.size_and_bits
            size += layer.qkv.size + layer.output.size + inner_size
            bits += layer.qkv.bits + layer.output.bits + inner_bits
        return size, bits


def load(
    model: Model,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> ModelWeights:
    """Read (or draw) all weights of `model`; matrices are quantized one by one, as they come."""
    return _Loader(model, device, dtype, quantization).load()


class _Loader:
    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        quantization: Quantization | None,
    ) -> None:
        self.config: ModelConfig = model.config
        self.weights = model.weights
        self.synthetic = model.info.format == "synthetic"
        self.device, self.dtype, self.quantization = device, dtype, quantization

    def load(self) -> ModelWeights:
        embedding = self._matrix("token_embd.weight")
        tied = self.config.tie_word_embeddings
        return ModelWeights(
            embedding=embedding,
            layers=tuple(self._layer(f"blk.{i}.") for i in range(self.config.n_layers)),
            final_norm=self._norm("output_norm.weight"),
            head=Projection(
                self._held(embedding if tied else self._matrix("output.weight"), head=True)
            ),
        )

    def _layer(self, prefix: str) -> LayerWeights:
        config = self.config
        qkv = [f"{prefix}attn_{part}" for part in "qkv"]
        return LayerWeights(
            input_norm=self._norm(f"{prefix}attn_norm.weight"),
            qkv=Projection(
                self._held(self._qkv([f"{name}.weight" for name in qkv])),
                self._qkv([f"{name}.bias" for name in qkv]) if config.attention_bias else None,
            ),
            q_norm=self._head_norm(f"{prefix}attn_q_norm.weight"),
            k_norm=self._head_norm(f"{prefix}attn_k_norm.weight"),
            output=Projection(self._held(self._matrix(f"{prefix}attn_output.weight"))),
            output_norm=self._post_norm(f"{prefix}post_attention_norm.weight"),
            mlp_norm=self._norm(f"{prefix}ffn_norm.weight"),
            feed_forward=self._feed_forward(prefix),
            feed_forward_norm=self._post_norm(f"{prefix}post_ffw_norm.weight"),
        )

    def _feed_forward(self, prefix: str) -> Dense | Mixture:
        experts = self.config.experts
        if experts is None:
            return self._dense(prefix)
        shared = gate = None
        if experts.shared_size is not None:
            shared = self._dense(prefix, "_shexp")
            gate = self._norm(f"{prefix}ffn_gate_inp_shexp.weight").to(self.dtype)
        return Mixture(
            experts,
            router=Projection(self._matrix(f"{prefix}ffn_gate_inp.weight")),
            gate_up=self._held(
                self._experts(f"{prefix}ffn_gate_exps.weight", f"{prefix}ffn_up_exps.weight")
            ),
            down=self._held(self._experts(f"{prefix}ffn_down_exps.weight")),
            shared=shared,
            shared_gate=gate,
        )

    def _dense(self, prefix: str, suffix: str = "") -> Dense:
        gate, up, down = (f"{prefix}ffn_{part}{suffix}.weight" for part in ("gate", "up", "down"))
        gate_up = Projection(self._held(self._matrix(gate, up)))
        return Dense(gate_up, Projection(self._held(self._matrix(down))))

    def _held(self, weight: torch.Tensor, *, head: bool = False) -> torch.Tensor | QuantizedWeight:
        """A matrix as it is multiplied with."""
        wanted = self.quantization
        return weight if wanted is None else quantize(weight, wanted.head if head else wanted.body)

    def _experts(self, *names: str) -> torch.Tensor:
        """(experts, rows of all tensors, columns)."""
        sources = [list(expert_tensors(self.weights[name])) for name in names]
        rows = [source[0].shape[0] for source in sources]
        shape = (len(sources[0]), sum(rows), sources[0][0].shape[1])
        target = torch.empty(shape, dtype=self.dtype, device=self.device)
        for expert, parts in zip(target, zip(*sources, strict=True), strict=True):
            for part, source in zip(expert.split(rows), parts, strict=True):
                self._fill(part, source)
        return target

    def _post_norm(self, name: str) -> torch.Tensor | None:
        return self._norm(name) if self.config.post_norms else None

    def _norm(self, name: str) -> torch.Tensor:
        return self._stack([self.weights[name]], torch.float32)

    def _head_norm(self, name: str) -> torch.Tensor | None:
        if not self.config.qk_norm:
            return None
        norm = self._norm(name)
        return self._in_halves(norm, heads=1)

    def _matrix(self, *names: str) -> torch.Tensor:
        return self._stack([self.weights[name] for name in names], self.dtype)

    def _qkv(self, names: list[str]) -> torch.Tensor:
        merged = self._matrix(*names)
        q_rows, k_rows, _ = (self.weights[name].shape[0] for name in names)
        config = self.config
        self._in_halves(merged[:q_rows], config.n_heads)
        self._in_halves(merged[q_rows : q_rows + k_rows], config.n_kv_heads)
        return merged

    def _in_halves(self, rows: torch.Tensor, heads: int) -> torch.Tensor:
        """Reorder each head's rows in place, so that row i turns with row i + head_dim / 2."""
        if self.config.rope_pairs == "adjacent" and not self.synthetic:
            pairs = rows.view(heads, self.config.head_dim // 2, 2, *rows.shape[1:])
            rows.copy_(pairs.transpose(1, 2).reshape(rows.shape).clone())
        return rows

    def _stack(self, sources: list[FileTensor], dtype: torch.dtype) -> torch.Tensor:
        """The tensors one below the other."""
        rows = [source.shape[0] for source in sources]
        target = torch.empty((sum(rows), *sources[0].shape[1:]), dtype=dtype, device=self.device)
        for part, source in zip(torch.split(target, rows), sources, strict=True):
            self._fill(part, source)
        return target

    def _fill(self, target: torch.Tensor, source: FileTensor) -> None:
        if self.synthetic:
            self._draw(target, source)
        else:
            _read(target, source)

    def _draw(self, target: torch.Tensor, source: FileTensor) -> None:
        """Normal values that keep activations near 1, the same for a name on one kind of device;
        a part of a matrix is drawn with its whole.
        """
        if isinstance(source, Shard) and source.whole is not None:
            drawn = torch.empty(source.whole.shape, dtype=target.dtype, device=target.device)
            self._draw(drawn, source.whole)
            target.copy_(source.of(drawn))
            return
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(source.name.encode()))
        if target.dim() == 2:
            target.normal_(0.0, 1 / math.sqrt(target.shape[1]), generator=generator)
        else:
            middle = 1.0 if source.name.endswith("norm.weight") else 0.0
            target.uniform_(middle - 0.1, middle + 0.1, generator=generator)


def _read(target: torch.Tensor, source: FileTensor) -> None:
    """Copy a file's tensor into `target`, a few million values at a time."""
    data = source.data  # (rows, bytes per row); a vector is one row
    columns = source.shape[-1]
    step = max(1, _CHUNK_VALUES // columns)
    rows = target.view(-1, columns)
    plain = _PLAIN.get(source.type)
    for start in range(0, len(data), step):
        part = data[start : start + step]
        if plain is None:
            values = torch.from_numpy(dequantize(part, source.type, (len(part), columns)))
        else:
            values = torch.from_numpy(part.copy()).view(plain)
        rows[start : start + step].copy_(values)
    source.release()
