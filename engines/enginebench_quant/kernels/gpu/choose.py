"""The next token from logits, on the device: penalties, temperature, noise, greatest key.

Gumbel-max: the argmax of logit / temperature plus Gumbel noise is a sample of the softmax, so that
nothing is sorted. The noise is keyed by (seed, position). Filters come as a bar that the scaled
logits must reach; `scaled_logits` yields what they are computed from. The last program to finish
joins all tiles and moves the state to the next position.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_quant.kernels.gpu.dependent_launch import await_previous, launch_options

__all__ = ["TILE", "choose", "scaled_logits"]

TILE = 1024


@triton.jit
def _scaled(logits, seen, counts, settings, token, V):
    """Logits with penalties, over the temperature if that is not 0; -inf beyond the vocabulary."""
    inside = token < V
    x = tl.load(logits + token, mask=inside, other=-float("inf"))
    heat = tl.load(settings)
    repetition = tl.load(settings + 1)
    presence = tl.load(settings + 2)
    frequency = tl.load(settings + 3)
    if (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0):
        times = tl.load(counts + token, mask=inside, other=0)
        known = tl.load(seen + token, mask=inside, other=0) > 0
        penalized = tl.where(x > 0, x / repetition, x * repetition)
        x = tl.where(known, penalized, x)
        x = x - tl.where(times > 0, presence + frequency * times.to(tl.float32), 0.0)
    return x / tl.where(heat > 0, heat, 1.0), heat


@triton.jit
def _gumbel(seed, position, token):
    """-log(-log(u)); -log(u) is formed from w = 1 - u, finest near 0, where the winners are."""
    bits = tl.randint(seed + position.to(tl.int64) * 0x5851F42D4C957F2D, token)
    w = ((bits >> 1) & 0x3FFFFFFF).to(tl.float32) * 9.313225746154785e-10 + 4.6566e-10  # 2**-30
    w = tl.minimum(w, 0.999999940395355224609375)
    series = w * (1.0 + w * (0.5 + w * (0.3333333333333333 + w * 0.25)))
    return -tl.log(tl.where(w < 0.015625, series, -tl.log(1.0 - w)))


@triton.jit
def _scaled_kernel(logits, seen, counts, settings, out, V, TILE: tl.constexpr, PDL: tl.constexpr):
    await_previous(PDL)
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    x, _ = _scaled(logits, seen, counts, settings, token, V)
    tl.store(out + token, x, mask=token < V)


@triton.jit
def _choose_kernel(
    logits, seen, counts, settings, bar, seed, state, tile_key, tile_token, arrived, V,
    n_tiles, TILE: tl.constexpr, TILES_PAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    await_previous(PDL)
    tile = tl.program_id(0)
    token = tile * TILE + tl.arange(0, TILE)
    key, heat = _scaled(logits, seen, counts, settings, token, V)
    if heat > 0:
        key = tl.where(key >= tl.load(bar), key, -float("inf"))
        key = key + _gumbel(tl.load(seed), tl.load(state + 1), token)
    best, lane = tl.max(key, axis=0, return_indices=True)
    tl.store(tile_key + tile, best)
    tl.store(tile_token + tile, tile * TILE + lane)
    tl.debug_barrier()
    before = tl.atomic_add(arrived, 1, sem="acq_rel")
    if before == n_tiles - 1:
        tl.debug_barrier()
        each = tl.arange(0, TILES_PAD)
        keys = tl.load(
            tile_key + each, mask=each < n_tiles, other=-float("inf"), cache_modifier=".cg"
        )
        _, winner = tl.max(keys, axis=0, return_indices=True)
        chosen = tl.load(tile_token + winner, cache_modifier=".cg")
        tl.store(state, chosen)
        tl.store(state + 1, tl.load(state + 1) + 1)
        tl.store(counts + chosen, tl.load(counts + chosen) + 1)
        tl.store(seen + chosen, 1)
        tl.store(arrived, 0)


def scaled_logits(
    logits: Tensor, seen: Tensor, counts: Tensor, settings: Tensor, out: Tensor
) -> None:
    """Twin of reference.scaled_logits."""
    size = logits.shape[0]
    _scaled_kernel[(triton.cdiv(size, TILE),)](
        logits, seen, counts, settings, out, size, TILE=TILE, num_warps=4,
        **launch_options(logits.device),
    )  # fmt: skip


def choose(
    logits: Tensor,
    seen: Tensor,
    counts: Tensor,
    settings: Tensor,
    bar: Tensor,
    seed: Tensor,
    state: Tensor,
    scratch: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Twin of reference.choose. `scratch`: f32 and i32 of a number a tile, and one i32 of 0."""
    size = logits.shape[0]
    tiles = triton.cdiv(size, TILE)
    if any(part.shape[0] < tiles for part in scratch[:2]):
        raise ValueError(f"scratch holds fewer than {tiles} tiles")
    if logits.dtype != torch.float32 or state.dtype != torch.int32:
        raise ValueError(f"logits must be f32 and state i32, not {logits.dtype} and {state.dtype}")
    _choose_kernel[(tiles,)](
        logits, seen, counts, settings, bar, seed, state, *scratch, size, tiles,
        TILE=TILE, TILES_PAD=triton.next_power_of_2(tiles), num_warps=4,
        **launch_options(logits.device),
    )  # fmt: skip
