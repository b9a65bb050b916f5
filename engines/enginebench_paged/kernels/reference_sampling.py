"""Sampling in plain torch: the twin of `sampling`, and the path that a CPU takes.

A token is drawn by the Gumbel-max trick: the argmax of log-probability plus Gumbel noise is a
sample of the softmax, so nothing is sorted or summed. The noise is a hash of (seed, position,
token): the same seed gives the same tokens whatever the batch, and both twins hash alike. Filters
apply in the usual order: temperature, top-k, then top-p over what top-k left; min-p is relative
to the most probable token. Tokens that tie with the last one kept stay.
"""

import math

import torch
from torch import Tensor

_PROBE = 1024  # filters seldom reach deeper than this; a whole sort is made only when one does


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """One token id (B,) int64 for each row of logits (B, V).

    All but logits are (B,): temperature 0 takes the most probable token; top_k 0 (or V and more),
    top_p 1 and min_p 0 keep all tokens; seeds and positions are int64.
    """
    drawn = (temperature > 0).nonzero().flatten()
    if len(drawn) < len(logits):
        tokens = logits.argmax(dim=-1)
    else:
        tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if len(drawn):
        x = logits[drawn].float()
        x -= x.amax(dim=-1, keepdim=True)
        x /= temperature[drawn, None]
        lowest = _lowest_kept(x, top_k[drawn], top_p[drawn], min_p[drawn])
        key = x + gumbel(seeds[drawn], positions[drawn], x.shape[1])
        if lowest is not None:
            key.masked_fill_(x < lowest[:, None], -torch.inf)
        tokens[drawn] = key.argmax(dim=-1)
    return tokens


def gumbel(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Gumbel noise (B, V), keyed by (seed, position, token): -log(-log(u)), u uniform.

    -log(u) is formed from w = 1 - u, which is finest near 0, where the winners of a large
    vocabulary are.
    """
    key = _mix64(seeds + positions * _signed(0x9E3779B97F4A7C15, 64))
    low, high = key.to(torch.int32)[:, None], (key >> 32).to(torch.int32)[:, None]
    h = torch.arange(vocab_size, dtype=torch.int32, device=seeds.device) ^ low
    h ^= (h >> 16) & 0xFFFF
    h *= _signed(0x7FEB352D, 32)
    h += high
    h ^= (h >> 15) & 0x1FFFF
    h *= _signed(0x846CA68B, 32)
    h ^= (h >> 16) & 0xFFFF
    w = ((h >> 1) & 0x7FFFFFFF).float()
    w += 0.5
    w *= 2.0**-31
    w.clamp_(max=1 - 2.0**-24)
    series = w * (1 + w * (1 / 2 + w * (1 / 3 + w * (1 / 4))))
    exponential = torch.where(w < 2.0**-6, series, -torch.log(1 - w))
    return exponential.log_().neg_()


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _mix64(z: Tensor) -> Tensor:
    """The finalizer of splitmix64, in wrapping int64."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9, 64)
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB, 64)
    return z ^ ((z >> 31) & (2**33 - 1))


def _lowest_kept(x: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor | None:
    """The smallest x (B,) that the filters of each row keep; None when they keep everything."""
    vocab_size = x.shape[1]
    searched = ((top_k > 0) & (top_k < vocab_size)) | (top_p < 1)
    if not bool((searched | (min_p > 0)).any()):
        return None
    lowest = min_p.float().log()  # log(0) = -inf keeps all
    rows = searched.nonzero().flatten()
    if len(rows):
        found = _lowest_of_top(x[rows], top_k[rows], top_p[rows])
        lowest[rows] = torch.maximum(lowest[rows], found)
    return lowest.clamp(max=0.0)  # the most probable token is at 0 and always stays


def _lowest_of_top(x: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    vocab_size = x.shape[1]
    top_k = torch.where(top_k > 0, top_k.clamp(max=vocab_size), vocab_size)[:, None]
    total = x.exp().sum(dim=-1, keepdim=True)
    for depth in (min(_PROBE, vocab_size), vocab_size):
        values = x.topk(depth).values
        mass = values.exp()
        in_top_k = torch.arange(depth, device=x.device) < top_k
        kept = torch.where(top_k < vocab_size, (mass * in_top_k).sum(-1, keepdim=True), total)
        limit = torch.where(top_p[:, None] < 1, top_p[:, None] * kept, math.inf)
        inside = in_top_k & (mass.cumsum(-1) - mass < limit)
        deeper = (top_k > depth) & (inside[:, -1:] | (top_k < vocab_size))
        if not bool(deeper.any()):
            break
    last = inside.sum(dim=-1, keepdim=True).clamp(min=1) - 1
    return values.gather(1, last).flatten()
