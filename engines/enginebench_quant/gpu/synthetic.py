"""Made-up weights, written straight into packed planes on the device: a large model in seconds.

Same shape and spread as the files that synthetic models are written to, but not the same numbers:
a generator of the device makes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from enginebench_quant.kernels.gpu.planes import LEVELS, Planes

__all__ = ["fill_dense", "fill_planes"]

_SCALE_RMS = math.sqrt(63 * 127 / 6)  # of six random bits
_SIX_BIT_RMS = math.sqrt((64**2 - 1) / 12 + 0.25)
_BYTE_RMS = math.sqrt((256**2 - 1) / 12 + 0.25)


def fill_planes(planes: Planes, random: torch.Generator) -> None:
    """Random codes, and scales that give values of standard deviation 1 / sqrt(columns)."""
    form = planes.format
    spread = planes.columns**-0.5
    for plane in (planes.codes, planes.high):
        if plane.numel():
            _fill_words(plane, random)
    levels = LEVELS.get(form.codes, range(1 << form.bits))
    steps = torch.tensor(levels, dtype=torch.float64).std(correction=0).item()
    if form.scales == "d":
        _signed(planes.scales, spread / steps, random)
    elif form.scales == "dm":
        halves = planes.scales.unsqueeze(-1).view(torch.float16)
        _positive(halves[..., 0], spread / steps, random)
        halves[..., 1] = halves[..., 0] * -((2**form.bits - 1) / 2)
    elif form.scales == "k":
        pair = planes.scales.unsqueeze(-1).view(torch.uint8)
        pair.random_(0, 64, generator=random)
        pair[..., 1] = pair[..., 0]
        halves = planes.supers.unsqueeze(-1).view(torch.float16)
        _positive(halves[..., 0], spread / (steps * _SCALE_RMS), random)
        halves[..., 1] = halves[..., 0] * ((2**form.bits - 1) / 2)
    elif form.scales == "e8":
        planes.scales.fill_(128 + round(math.log2(spread / steps)))
    elif form.scales == "ks":
        planes.scales.random_(-32, 32, generator=random)
        _signed(planes.supers, spread / (steps * _SIX_BIT_RMS), random)
    else:
        _fill_words(planes.scales, random)
        _signed(planes.supers, spread / (steps * _BYTE_RMS), random)


def fill_dense(tensor: Tensor, random: torch.Generator) -> None:
    """A matrix of standard deviation 1 / sqrt(columns)."""
    tensor.normal_(0.0, tensor.shape[-1] ** -0.5, generator=random)


def _fill_words(plane: Tensor, random: torch.Generator) -> None:
    limits = torch.iinfo(plane.dtype)
    plane.random_(limits.min, limits.max, generator=random)


def _positive(scales: Tensor, magnitude: float, random: torch.Generator) -> None:
    """2/3 to 4/3 of `magnitude`."""
    drawn = torch.empty_like(scales, dtype=torch.float32)
    scales.copy_(drawn.uniform_(2 / 3, 4 / 3, generator=random).mul_(magnitude))


def _signed(scales: Tensor, magnitude: float, random: torch.Generator) -> None:
    """As _positive, of either sign, so that an uneven range of codes cancels out."""
    _positive(scales, magnitude, random)
    scales *= torch.empty_like(scales).random_(0, 2, generator=random) * 2 - 1
