"""Sampling on the GPU: Gumbel-max in two stages, without a sort.

Stage one cuts the vocabulary into tiles, so that one row already fills many multiprocessors: each
program finds its tile's maximum, its mass and the token with the greatest key (logit over
temperature plus noise). Stage two takes one row a program and joins the tiles; a row without
filters is then done.

A filtered row looks for the greatest key among the tokens that top-k, top-p and min-p keep
without finding that set: it takes the token with the greatest key and asks whether the count and
the mass of the tokens above it are within limits. If not, that token and all below it are out,
and it takes the greatest key above them. One check is the usual number, since a token is drawn as
often as its mass is large. Only top-k together with top-p < 1 needs the mass of the top k first,
found by narrowing a bracket around the k-th value.

The noise and the meaning of the filters are those of `reference_sampling`. Values of (logit -
max) / temperature that lie within 4e-7 of each other may count as tied.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from enginebench_paged.kernels.checks import require, require_contiguous, require_dense_rows
from enginebench_paged.kernels.configs import SampleConfig, chip
from enginebench_paged.kernels.dependent_launch import await_previous, launch_options

# Noise lies between -2.82 and 22.19: a token further than that below the maximum never wins.
_REACH = tl.constexpr(25.0)
_NARROWINGS = tl.constexpr(13)  # of a bracket of 26 by 4 each time: to 4e-7
_STAGES = tl.constexpr(3)


@triton.jit
def _row_key(seed, position):
    """The hash of (seed, position) as two 32-bit words: splitmix64."""
    z = seed.to(tl.uint64) + position.to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z & 0xFFFFFFFF).to(tl.uint32), (z >> 32).to(tl.uint32)


@triton.jit
def _gumbel(token, low, high):
    h = token.to(tl.uint32) ^ low
    h ^= h >> 16
    h *= 0x7FEB352D
    h += high
    h ^= h >> 15
    h *= 0x846CA68B
    h ^= h >> 16
    w = ((h >> 1).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10  # 2**-31
    w = tl.minimum(w, 0.999999940395355224609375)  # 1 - 2**-24
    series = w * (1.0 + w * (0.5 + w * (0.3333333333333333 + w * 0.25)))
    return -tl.log(tl.where(w < 0.015625, series, -tl.log(1.0 - w)))


@triton.jit
def _tile_kernel(
    logits,
    temperature,
    seeds,
    positions,
    tile_max,
    tile_mass,
    tile_key,
    tile_token,
    row_stride,
    V,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = tile * TILE + tl.arange(0, TILE)
    heat = tl.load(temperature + row)
    logit = tl.load(logits + row * row_stride + token, mask=token < V, other=-float("inf"))
    logit = logit.to(tl.float32)
    top, best = tl.max(logit, axis=0, return_indices=True)
    at = row * tl.num_programs(0) + tile
    tl.store(tile_max + at, top)
    if heat > 0:
        x = (logit - tl.where(top == -float("inf"), 0.0, top)) / heat
        low, high = _row_key(tl.load(seeds + row), tl.load(positions + row))
        key = x + _gumbel(token, low, high)
        best_key, best = tl.max(key, axis=0, return_indices=True)
        tl.store(tile_key + at, best_key)
        tl.store(tile_mass + at, tl.sum(tl.exp(x), axis=0))
    tl.store(tile_token + at, tile * TILE + best)


@triton.jit
def _scaled_tile(logits_row, start, top, heat, V, TILE: tl.constexpr):
    """x = (logit - max) / temperature of a tile; 0 at the most probable token."""
    token = start + tl.arange(0, TILE)
    logit = tl.load(logits_row + token, mask=token < V, other=-float("inf")).to(tl.float32)
    return token, (logit - top) / heat


@triton.jit
def _kth_value(logits_row, top, heat, k, V, TILE: tl.constexpr):
    """The k-th largest x, or a value between it and the next lower one, and the mass at or above.

    The k-th lies in [low, high): each pass counts the tokens at or above three values between,
    and ends the search when exactly k lie at or above low, or when all values left in the bracket
    are one.
    """
    low = -_REACH
    high = 1.0
    passes = 0
    searching = True
    while searching & (passes < _NARROWINGS):
        step = (high - low) * 0.25
        a = low + step
        b = low + step * 2.0
        c = low + step * 3.0
        n_low = tl.zeros((TILE,), tl.int32)
        n_a = tl.zeros((TILE,), tl.int32)
        n_b = tl.zeros((TILE,), tl.int32)
        n_c = tl.zeros((TILE,), tl.int32)
        least = tl.full((TILE,), float("inf"), tl.float32)
        most = tl.full((TILE,), -float("inf"), tl.float32)
        for start in tl.range(0, V, TILE, num_stages=_STAGES):
            _, x = _scaled_tile(logits_row, start, top, heat, V, TILE)
            n_low += (x >= low).to(tl.int32)
            n_a += (x >= a).to(tl.int32)
            n_b += (x >= b).to(tl.int32)
            n_c += (x >= c).to(tl.int32)
            least = tl.minimum(least, tl.where(x >= low, x, float("inf")))
            most = tl.maximum(most, tl.where(x < high, x, -float("inf")))
        if tl.sum(n_low, axis=0) <= k:
            searching = False
        elif tl.min(least, axis=0) >= tl.max(most, axis=0):
            searching = False
        elif tl.sum(n_c, axis=0) >= k:
            low = c
        elif tl.sum(n_b, axis=0) >= k:
            low = b
            high = c
        elif tl.sum(n_a, axis=0) >= k:
            low = a
            high = b
        else:
            high = a
        passes += 1
    kept = tl.zeros((TILE,), tl.float32)
    for start in tl.range(0, V, TILE, num_stages=_STAGES):
        _, x = _scaled_tile(logits_row, start, top, heat, V, TILE)
        kept += tl.where(x >= low, tl.exp(x), 0.0)
    return low, tl.sum(kept, axis=0)


@triton.jit
def _greatest_key(logits_row, top, heat, floor, low, high, V, TILE: tl.constexpr):
    """The token with the greatest key among those with x >= floor, and its x."""
    best_key = tl.full((TILE,), -float("inf"), tl.float32)
    best_token = tl.zeros((TILE,), tl.int32)
    best_x = tl.zeros((TILE,), tl.float32)
    for start in tl.range(0, V, TILE, num_stages=_STAGES):
        token, x = _scaled_tile(logits_row, start, top, heat, V, TILE)
        key = tl.where(x >= floor, x + _gumbel(token, low, high), -float("inf"))
        better = key > best_key
        best_key = tl.where(better, key, best_key)
        best_token = tl.where(better, token, best_token)
        best_x = tl.where(better, x, best_x)
    _, lane = tl.max(best_key, axis=0, return_indices=True)
    picked = tl.arange(0, TILE) == lane
    token = tl.sum(tl.where(picked, best_token, 0), axis=0)
    return token, tl.sum(tl.where(picked, best_x, 0.0), axis=0)


@triton.jit
def _above(logits_row, top, heat, bar, V, TILE: tl.constexpr):
    """Count, mass and least x of the tokens with x > bar."""
    count = tl.zeros((TILE,), tl.int32)
    mass = tl.zeros((TILE,), tl.float32)
    least = tl.full((TILE,), float("inf"), tl.float32)
    for start in tl.range(0, V, TILE, num_stages=_STAGES):
        _, x = _scaled_tile(logits_row, start, top, heat, V, TILE)
        above = x > bar
        count += above.to(tl.int32)
        mass += tl.where(above, tl.exp(x), 0.0)
        least = tl.minimum(least, tl.where(above, x, float("inf")))
    return tl.sum(count, axis=0), tl.sum(mass, axis=0), tl.min(least, axis=0)


@triton.jit
def _join_kernel(
    logits,
    temperature,
    top_k,
    top_p,
    min_p,
    seeds,
    positions,
    tile_max,
    tile_mass,
    tile_key,
    tile_token,
    out,
    row_stride,
    V,
    n_tiles,
    TILES_PAD: tl.constexpr,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    await_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES_PAD)
    at = row * n_tiles + tile
    heat = tl.load(temperature + row)
    tops = tl.load(tile_max + at, mask=tile < n_tiles, other=-float("inf"))
    top, best_tile = tl.max(tops, axis=0, return_indices=True)
    if heat > 0:
        shift = (tops - top) / heat
        keys = tl.load(tile_key + at, mask=tile < n_tiles, other=-float("inf"))
        _, best_tile = tl.max(keys + shift, axis=0, return_indices=True)
    token = tl.load(tile_token + row * n_tiles + best_tile)

    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    least = tl.load(min_p + row)
    by_k = (k > 0) & (k < V)
    if (heat > 0) & (by_k | (p < 1.0) | (least > 0)):
        masses = tl.load(tile_mass + at, mask=tile < n_tiles, other=0.0)
        total = tl.sum(masses * tl.exp((tops - top) / heat), axis=0)
        logits_row = logits + row * row_stride
        low, high = _row_key(tl.load(seeds + row), tl.load(positions + row))
        floor = tl.minimum(tl.log(tl.maximum(least, 1e-30)), 0.0)
        k = tl.where(by_k, k, V)
        if by_k & (p < 1.0):
            kth, total = _kth_value(logits_row, top, heat, k, V, TILE)
            floor = tl.maximum(floor, kth)
            k = V
        limit = tl.where(p < 1.0, total * p, float("inf"))
        x = (tl.load(logits_row + token).to(tl.float32) - top) / heat
        searching = True
        while searching:
            if x < floor:
                token, x = _greatest_key(logits_row, top, heat, floor, low, high, V, TILE)
            count, mass, least_above = _above(logits_row, top, heat, x, V, TILE)
            floor = least_above
            # nothing lies above the most probable token: it stays even where the limit is 0
            searching = (count > 0) & ((count >= k) | (mass >= limit))
    tl.store(out + row, token.to(tl.int64))


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    out: Tensor | None = None,
    config: SampleConfig | None = None,
) -> Tensor:
    """Twin of reference.sample: logits (B, V), the rest (B,); every row its own parameters."""
    batch, vocab_size = logits.shape
    per_row = {
        "temperature": (temperature, torch.float32),
        "top_k": (top_k, torch.int32),
        "top_p": (top_p, torch.float32),
        "min_p": (min_p, torch.float32),
        "seeds": (seeds, torch.int64),
        "positions": (positions, torch.int64),
    }
    for name, (tensor, dtype) in per_row.items():
        require(tensor.shape == (batch,), f"{name} has shape {tuple(tensor.shape)}, not ({batch},)")
        require(tensor.dtype == dtype, f"{name} is {tensor.dtype}, expected {dtype}")
        require_contiguous(**{name: tensor})
    require_dense_rows(logits=logits)
    if out is None:
        out = torch.empty(batch, dtype=torch.int64, device=logits.device)
    if batch == 0:
        return out
    config = chip(logits.device).sample if config is None else config
    n_tiles = triton.cdiv(vocab_size, config.tile)
    # max, mass, key and token of each tile
    found = torch.empty((3, batch, n_tiles), dtype=torch.float32, device=logits.device)
    tokens = torch.empty((batch, n_tiles), dtype=torch.int32, device=logits.device)
    options = launch_options(logits.device)
    _tile_kernel[(n_tiles, batch)](
        logits, temperature, seeds, positions, found[0], found[1], found[2], tokens,
        logits.stride(0), vocab_size, TILE=config.tile, num_warps=config.num_warps, **options,
    )  # fmt: skip
    _join_kernel[(batch,)](
        logits, temperature, top_k, top_p, min_p, seeds, positions,
        found[0], found[1], found[2], tokens, out, logits.stride(0), vocab_size, n_tiles,
        TILES_PAD=triton.next_power_of_2(n_tiles), TILE=config.filter_tile,
        num_warps=config.filter_warps, **options,
    )  # fmt: skip
    return out
