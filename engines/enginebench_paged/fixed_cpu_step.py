"""A step on a CPU whose results do not depend on what else is in it (option `deterministic`).

Libraries choose the order of their sums by the shape of the whole call, and vector loops round the
elements at the end of a thread's share in another way. So every call here has one shape:

- A query at position p is row p % queries of tile p // queries of its sequence, whether it came
  alone or with a prompt; a tile's other rows are zeros. It attends to SEGMENT keys at a time, whose
  softmaxes are joined in their order. Neither the batch nor a chunk's boundary shows.
- Norms are taken over exactly as many rows at a time as products are, activations row by row.

What a row of such a call holds does not change the bits of another row; `tests` hold it against
engines with other batches, chunks, caches and preemptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from enginebench_paged.cpu_step import CpuStep, View
from enginebench_paged.fixed_products import in_rows
from enginebench_paged.inputs import StepInputs

__all__ = ["FixedCpuStep"]

SEGMENT = 256  # keys; a multiple of every block size
_ROWS = 16  # query rows (queries times the heads that share a key head) that a tile aims at
_HIDDEN = -1e30


@dataclass(frozen=True, slots=True)
class _Tile:
    """Its number in the step, and what its rows do not see of each segment, (rows, keys)."""

    number: int
    hidden: dict[int, Tensor]


@dataclass(frozen=True, slots=True)
class _Sequence:
    """`rows` finds each segment's keys in the cache, head by head."""

    rows: dict[int, Tensor]
    tiles: list[_Tile]


@dataclass(frozen=True, slots=True)
class _Tiles:
    """All of a step: `places` (T,) says which row of the tiles each token is."""

    tokens: slice
    places: Tensor
    count: int
    sequences: list[_Sequence]


class FixedCpuStep(CpuStep):
    """`CpuStep`, a fixed shape at a time."""

    def gate(self, gate_up: Tensor) -> Tensor:
        return torch.cat([super(FixedCpuStep, self).gate(row) for row in torch.split(gate_up, 1)])

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return in_rows(partial(self._normed_rows, weight=weight), x)

    def _normed_rows(self, x: Tensor, weight: Tensor) -> Tensor:
        mean_square = (x * x).sum(dim=-1, keepdim=True) / x.shape[-1]
        return x * torch.rsqrt(mean_square + self._eps) * weight

    def _rotate(self, x: Tensor, view: View) -> Tensor:
        turned = x * view.cos + torch.roll(x, x.shape[-1] // 2, -1) * view.sin
        return turned.to(self._dtype)

    # ------------------------------------------------------------ attention

    def _attend(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        group: _Tiles,
        scales: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        n_kv_heads, head_dim = self._config.n_kv_heads, q.shape[-1]
        heads = q.shape[1] // n_kv_heads
        rows = q.new_zeros(group.count * self._queries, n_kv_heads, heads, head_dim)
        rows.index_copy_(0, group.places, q.view(len(q), n_kv_heads, heads, head_dim))
        tiles = rows.view(group.count, self._queries, n_kv_heads, heads, head_dim).float()
        tiles = tiles.transpose(1, 2).reshape(group.count, n_kv_heads, -1, head_dim)
        out = torch.empty_like(tiles)
        for sequence in group.sequences:
            found = {
                segment: [
                    self._read(cache, places, scale).view(n_kv_heads, SEGMENT, -1).float()
                    for cache, scale in zip((keys, values), scales, strict=True)
                ]
                for segment, places in sequence.rows.items()
            }
            for tile in sequence.tiles:
                out[tile.number] = self._walk(tiles[tile.number], tile, found)
        out = out.view(group.count, n_kv_heads, self._queries, heads, head_dim).transpose(1, 2)
        out = out.reshape(group.count * self._queries, -1).index_select(0, group.places)
        return out.to(self._dtype)

    def _walk(self, q: Tensor, tile: _Tile, found: dict[int, list[Tensor]]) -> Tensor:
        """q (kv_heads, rows, head_dim) over the tile's segments, joined one after the other."""
        best = q.new_full((*q.shape[:2], 1), _HIDDEN)
        total, acc = torch.zeros_like(best), torch.zeros_like(q)
        for segment, hidden in tile.hidden.items():
            k, v = found[segment]
            scores = self._scores(q, k).masked_fill_(hidden, _HIDDEN)
            highest = torch.maximum(best, scores.amax(dim=-1, keepdim=True))
            weights = (scores - highest).exp_()
            decay = (best - highest).exp_()
            total = total * decay + weights.sum(dim=-1, keepdim=True)
            acc = acc * decay + torch.bmm(weights, v)
            best = highest
        return acc / total

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        if self._config.attention_softcap is not None:
            return self._capped(q, k)
        return torch.bmm(q, k.transpose(1, 2)) * self._scale

    # ------------------------------------------------------------ once per step

    @property
    def _queries(self) -> int:
        return max(1, _ROWS * self._config.n_kv_heads // self._config.n_heads)

    def _make_groups(
        self, x: StepInputs[Tensor], tables: Tensor, window: int | None
    ) -> list[_Tiles]:
        own = tables[:, : x.sizes.width].index_select(0, x.sequence_slots).long()
        lens, starts = x.context_lens.tolist(), x.query_starts.tolist()
        sequences, places, count = [], [], 0
        for blocks, context, start, stop in zip(own, lens, starts, starts[1:], strict=False):
            first = (context - (stop - start)) // self._queries
            last = (context - 1) // self._queries
            tiles = [
                _Tile(count + tile - first, self._hidden(tile, context, window))
                for tile in range(first, last + 1)
            ]
            segments = sorted({segment for tile in tiles for segment in tile.hidden})
            rows = {segment: self._rows(blocks, segment) for segment in segments}
            sequences.append(_Sequence(rows, tiles))
            places.append(x.positions[start:stop] + (count - first) * self._queries)
            count += len(tiles)
        return [_Tiles(slice(0, starts[-1]), torch.cat(places), count, sequences)]

    def _hidden(self, tile: int, context: int, window: int | None) -> dict[int, Tensor]:
        """For each segment that the tile at this place sees, what each of its rows does not see."""
        first = tile * self._queries
        last = min(first + self._queries, context) - 1
        begin = 0 if window is None else max(0, first - window + 1) // SEGMENT
        query = torch.arange(first, first + self._queries)
        query = query.repeat_interleave(self._config.n_heads // self._config.n_kv_heads)[:, None]
        masks = {}
        for segment in range(begin, last // SEGMENT + 1):
            key = torch.arange(segment * SEGMENT, (segment + 1) * SEGMENT)
            masks[segment] = key > query
            if window is not None:
                masks[segment] |= key <= query - window
        return masks

    def _rows(self, blocks: Tensor, segment: int) -> Tensor:
        """Blocks that the table does not have are those of anybody: nobody sees them."""
        each = SEGMENT // self._block_size
        own = functional.pad(blocks[segment * each : (segment + 1) * each], (0, each))[:each]
        return (own * self._config.n_kv_heads + self._heads).flatten()
