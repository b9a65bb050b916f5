"""A model's launches on one device, and what they share: state, cache, rotary angles, workspaces.

Launches only launch: what varies (tokens, positions, settings) is read on the device. So each can
be captured in a CUDA graph once and replayed for any request. Buffers are allocated once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enginebench_models import LayerAttention, ModelConfig
from enginebench_quant.gpu.cache import GpuCache
from enginebench_quant.gpu.chunk import Chunk
from enginebench_quant.gpu.state import MAX_ROWS, State
from enginebench_quant.gpu.step import Step
from enginebench_quant.gpu.techniques import Techniques
from enginebench_quant.gpu.weights import Weights
from enginebench_quant.kernels.gpu import ops
from enginebench_quant.kernels.gpu.planes import Planes
from enginebench_quant.kernels.gpu.sight import Sight

__all__ = ["Program"]

_TILE_TOKENS = 1024  # of logits, as `choose` cuts them


class Program:
    """Steps, chunks and choices over a model's weights."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        context: int,
        device: torch.device,
        techniques: Techniques,
        kv_type: str,
    ) -> None:
        self.config, self.weights, self.device = config, weights, device
        self.techniques = techniques
        self.state = State.empty(config.vocab_size, device)
        self.ops = ops.kernels(device.type)
        self.cache = GpuCache(config, context, device, kv_type)
        tables = {kind: _angles(config, kind, context, device) for kind in set(config.layers)}
        self.cos_sin = [tables[kind] for kind in config.layers]
        self.sights = [_sight(config, kind, context) for kind in config.layers]
        sizes = (config.n_heads, config.n_kv_heads, config.head_dim, context)
        splits = None if techniques.split_kv else 1
        self.workspace = ops.workspace(*sizes, device=device, splits=splits)
        placed = self.state.token_and_position
        self.step = Step(self, 1, placed[:1], placed[1:])
        self._steps = {1: Step(self, 1, self.state.rows[:1], self.state.positions[:1])}
        self.chunk = Chunk(self)
        self._make_choice_buffers()

    def steps(self, rows: int) -> Step:
        """A step of 1 to MAX_ROWS tokens, which stand in the state's `rows` and `positions`."""
        assert 1 <= rows <= MAX_ROWS
        if rows not in self._steps:
            s = self.state
            self._steps[rows] = Step(self, rows, s.rows[:rows], s.positions[:rows])
        return self._steps[rows]

    def embed(self, ids: Tensor, out: Tensor) -> None:
        """Rows of the embedding table become the residual stream."""
        table = self.weights.embedding
        if isinstance(table, Planes):
            self.ops.expand(table, out, ids=ids)
        elif table is not None:
            out.copy_(table.index_select(0, ids))
        if self.config.embedding_scale is not None:
            out.mul_(self.config.embedding_scale)

    def filter(self) -> None:
        """The bar that top-k, top-p and min-p set; sorts, so it is only run when one is on."""
        s, logits = self.state, self.step.logits[0]
        self.ops.scaled_logits(logits, s.seen, s.counts, s.settings, self._scaled)
        s.bar.copy_(lowest_kept(self._scaled, s.filters))

    def choose(self) -> None:
        """The next token and its position become the state."""
        s = self.state
        self.ops.choose(
            self.step.logits[0], s.seen, s.counts, s.settings, s.bar, s.seed,
            s.token_and_position, self._scratch,
        )  # fmt: skip

    def _make_choice_buffers(self) -> None:
        size = self.config.vocab_size
        tiles = -(-size // _TILE_TOKENS)
        self._scaled = torch.zeros(size, device=self.device)
        self._scratch = (
            torch.zeros(tiles, device=self.device),
            torch.zeros(tiles, dtype=torch.int32, device=self.device),
            torch.zeros(1, dtype=torch.int32, device=self.device),
        )


def lowest_kept(x: Tensor, filters: Tensor) -> Tensor:
    """The least of the scaled logits x (V,) that the filters keep, (1,).

    In the usual order: top-k, top-p over what top-k left, min-p against the likeliest, which
    always stays.
    """
    top_k, top_p, min_p = filters.unbind()
    ordered = torch.sort(x, descending=True).values
    rank = torch.arange(x.shape[0], device=x.device)
    mass = torch.exp(ordered - ordered[0])
    mass = torch.where((rank < top_k) | (top_k <= 0), mass, 0.0)
    before = mass.double().cumsum(0) - mass
    kept = (mass > 0) & (before < top_p * mass.double().sum()) & (mass >= min_p)
    kept |= rank == 0
    return torch.where(kept, ordered, torch.inf).amin(0, keepdim=True)


def _sight(config: ModelConfig, kind: LayerAttention, context: int) -> Sight:
    """A window as wide as the context narrows nothing."""
    is_narrow = kind.window is not None and kind.window < context
    return Sight(config.scale, kind.window if is_narrow else None, config.attention_softcap)


def _angles(
    config: ModelConfig, kind: LayerAttention, context: int, device: torch.device
) -> Tensor:
    """Cosines, then sines, of every position: (context, head_dim) f32."""
    frequencies = torch.from_numpy(kind.frequencies(config.head_dim, context))
    angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
    table = torch.cat((angles.cos(), angles.sin()), -1) * kind.magnitude
    return table.float().to(device)
