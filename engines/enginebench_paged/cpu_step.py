"""A step on a CPU: few, large torch calls, since each call costs microseconds and a layer takes
hundreds.

Same results as `kernels.reference` but for rounding: the residual stream and the norms stay in
float32. Keys and values are copied out of their blocks with one `index_select` each. Decodes of
several sequences are one batched product over contexts padded to the longest; a prompt, or a
single decode, goes through torch's fused attention alone. Blocks come from memory that was zeroed
once, so what padding reads is finite and a mask is enough to hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from enginebench_models import ModelConfig
from enginebench_paged.cache import KVCache
from enginebench_paged.inputs import StepInputs
from enginebench_paged.kernels.reference import stored_as
from enginebench_paged.step_kernels import LayerPositions

__all__ = ["CpuStep", "View"]


@dataclass(frozen=True, slots=True)
class _Batch:
    """B sequences with one query each, contexts padded to C keys.

    rows (B * kv_heads * blocks,) of the cache seen as (num_blocks * kv_heads, block_size *
    head_dim); mask (B * kv_heads, group, C) is added to the scores.
    """

    tokens: slice
    rows: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class _Alone:
    """One sequence with Q queries; rows as above, mask (group * Q, context)."""

    tokens: slice
    rows: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class View:
    """What layers of one kind have in common: angles (T, 1, head_dim), and what is attended."""

    cos: Tensor
    sin: Tensor
    groups: Sequence[Any]  # what `_attend` takes


class CpuStep:
    """See `step_kernels.StepKernels`; `tables` holds the block table of every slot."""

    def __init__(
        self,
        config: ModelConfig,
        positions: Sequence[LayerPositions],
        x: StepInputs[Tensor],
        tables: Tensor,
        cache: KVCache,
    ) -> None:
        self._config, self._cache, self._positions = config, cache, positions
        self._dtype = cache.dtype
        self._block_size = cache.keys[0].shape[2]
        self._eps = torch.tensor(config.rms_norm_eps)
        self._scale = config.scale
        self._heads = torch.arange(config.n_kv_heads)[:, None]
        self._written = self._rows_written(x.cache_slots)
        self._views = {kind: self._view(kind, x, tables) for kind in set(positions)}

    # ------------------------------------------------------------ around the products

    def begin(self, embedded: Tensor) -> Tensor:
        scale = self._config.embedding_scale
        return embedded.float() if scale is None else embedded.float() * scale

    def norm(self, residual: Tensor, weight: Tensor) -> Tensor:
        return self._normed(residual, weight).to(self._dtype)

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        residual = residual + x
        return self.norm(residual, weight), residual

    def post_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._normed(x.float(), weight)

    def gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        if self._config.activation == "gelu_tanh":
            return functional.gelu(gate, approximate="tanh").mul_(up)
        return functional.silu(gate).mul_(up)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """x / rms(x) * weight in float32, in fewer calls than torch's own rms_norm makes."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.addcmul(self._eps, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (x * inverse).mul_(weight)

    # ------------------------------------------------------------ attention

    def attention(
        self, qkv: Tensor, layer: int, q_norm: Tensor | None, k_norm: Tensor | None
    ) -> Tensor:
        heads, kv_heads = self._config.n_heads, self._config.n_kv_heads
        turned, v = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if q_norm is not None and k_norm is not None:
            weight = torch.cat((q_norm.expand(heads, -1), k_norm.expand(kv_heads, -1)))
            turned = self._normed(turned.float(), weight)
        view = self._views[self._positions[layer]]
        turned = self._rotate(turned, view)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        head_dim = qkv.shape[-1]
        scales = self._cache.layer_scales(layer) or (None, None)
        for held, new, scale in zip((keys, values), (turned[:, heads:], v), scales, strict=True):
            new = stored_as(held.dtype, new, scale).reshape(-1, head_dim)
            if scale is not None:  # torch copies bytes by index, but no fp8
                held, new = held.view(torch.uint8), new.view(torch.uint8)
            held.view(-1, head_dim).index_copy_(0, self._written, new)
        q = turned[:, :heads]
        parts = [
            self._attend(q[group.tokens], keys, values, group, scales) for group in view.groups
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rotate(self, x: Tensor, view: View) -> Tensor:
        """Element i of a head turns with element i + head_dim / 2."""
        swapped = torch.roll(x, x.shape[-1] // 2, -1)
        return (x * view.cos).addcmul_(swapped, view.sin).to(self._dtype)

    def _attend(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        group: Any,
        scales: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        k, v = (
            self._read(cache, group.rows, scale)
            for cache, scale in zip((keys, values), scales, strict=True)
        )
        return (
            self._batch(q, k, v, group)
            if isinstance(group, _Batch)
            else self._alone(q, k, v, group)
        )

    def _read(self, cache: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:
        """Rows of one block and head each; they run through all heads again and again."""
        found = cache.view(cache.shape[0] * cache.shape[1], -1).index_select(0, rows)
        if scale is None:
            return found
        of_row = scale[rows % len(scale)]
        return (found.float() * of_row[:, None]).to(self._dtype)

    def _batch(self, q: Tensor, k: Tensor, v: Tensor, group: _Batch) -> Tensor:
        pairs, per_kv_head, context = group.mask.shape
        head_dim = q.shape[-1]
        k, v = k.view(pairs, context, head_dim), v.view(pairs, context, head_dim)
        grouped = q.reshape(pairs, per_kv_head, head_dim)
        if self._config.attention_softcap is None:
            scores = torch.baddbmm(group.mask, grouped, k.transpose(1, 2), alpha=self._scale)
        else:
            scores = self._capped(grouped, k) + group.mask
        return torch.bmm(scores.softmax(dim=-1), v).view(len(q), -1)

    def _alone(self, q: Tensor, k: Tensor, v: Tensor, group: _Alone) -> Tensor:
        queries, heads, head_dim = q.shape
        kv_heads, context = self._config.n_kv_heads, group.mask.shape[1]
        k = k.view(1, kv_heads, -1, head_dim)[:, :, :context]
        v = v.view(1, kv_heads, -1, head_dim)[:, :, :context]
        # query heads that share a key head stand one below the other: (1, kv_heads, group * Q, D)
        grouped = q.view(queries, kv_heads, -1, head_dim).permute(1, 2, 0, 3)
        grouped = grouped.reshape(1, kv_heads, -1, head_dim)
        if self._config.attention_softcap is None:
            out = functional.scaled_dot_product_attention(
                grouped, k, v, attn_mask=group.mask[None, None], scale=self._scale
            )
        else:
            scores = self._capped(grouped, k) + group.mask
            out = torch.matmul(scores.softmax(dim=-1), v)
        out = out.view(kv_heads, heads // kv_heads, queries, head_dim).permute(2, 0, 1, 3)
        return out.reshape(queries, -1)

    def _capped(self, q: Tensor, k: Tensor) -> Tensor:
        """Soft-capped scores of q (..., Q, D) against k (..., C, D)."""
        cap = self._config.attention_softcap
        assert cap is not None
        scores = torch.matmul(q, k.transpose(-1, -2)) * (self._scale / cap)
        return scores.tanh_().mul_(cap)

    # ------------------------------------------------------------ once per step

    def _view(self, kind: LayerPositions, x: StepInputs[Tensor], tables: Tensor) -> View:
        cos, sin = kind.rotary[x.positions].unsqueeze(1).chunk(2, dim=-1)
        return View(
            cos=torch.cat((cos, cos), dim=-1),
            sin=torch.cat((-sin, sin), dim=-1),
            groups=self._make_groups(x, tables, kind.window),
        )

    def _rows_written(self, slots: Tensor) -> Tensor:
        """Where a cache seen as (rows, head_dim) takes the keys of each token, head by head."""
        block, offset = slots // self._block_size, slots % self._block_size
        heads = block[:, None] * self._config.n_kv_heads + self._heads.T
        return (heads * self._block_size + offset[:, None]).flatten()

    def _make_groups(
        self, x: StepInputs[Tensor], tables: Tensor, window: int | None
    ) -> Sequence[Any]:
        own = tables[:, : x.sizes.width].index_select(0, x.sequence_slots).long()
        lens, starts = x.context_lens.tolist(), x.query_starts.tolist()
        groups: list[_Batch | _Alone] = []
        first = 0
        if x.sizes.decodes > 1:
            first = x.sizes.decodes
            contexts, longest = x.context_lens[:first], max(lens[:first])
            groups.append(self._decodes(own[:first], contexts, longest, window))
        for index in range(first, x.sizes.sequences):
            tokens = slice(starts[index], starts[index + 1])
            groups.append(self._sequence(own[index], lens[index], tokens, window))
        return groups

    def _decodes(self, blocks: Tensor, lens: Tensor, longest: int, window: int | None) -> _Batch:
        count = -(-longest // self._block_size)
        position = torch.arange(count * self._block_size)
        hidden = position >= lens[:, None]  # (B, C)
        if window is not None:
            hidden |= position < lens[:, None] - window
        per_kv_head = self._config.n_heads // self._config.n_kv_heads
        mask = self._mask(hidden)[:, None, None].expand(
            -1, self._config.n_kv_heads, per_kv_head, -1
        )
        rows = blocks[:, None, :count] * self._config.n_kv_heads + self._heads
        return _Batch(slice(0, len(blocks)), rows.flatten(), mask.reshape(-1, *mask.shape[2:]))

    def _sequence(self, blocks: Tensor, context: int, tokens: slice, window: int | None) -> _Alone:
        key = torch.arange(context)
        query = key[context - (tokens.stop - tokens.start) :, None]
        hidden = key > query
        if window is not None:
            hidden |= key <= query - window
        per_kv_head = self._config.n_heads // self._config.n_kv_heads
        count = -(-context // self._block_size)
        rows = blocks[:count] * self._config.n_kv_heads + self._heads
        return _Alone(tokens, rows.flatten(), self._mask(hidden).repeat(per_kv_head, 1))

    def _mask(self, hidden: Tensor) -> Tensor:
        return torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, -torch.inf)
