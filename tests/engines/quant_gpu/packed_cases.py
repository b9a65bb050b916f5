"""Random matrices as a file has them and as planes, and how far two tensors are apart."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebench_models import GGMLType
from enginebench_quant.kernels.gpu.planes import Planes, empty_planes, repack

_HALVES_AT = {"Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}


def random_bytes(kind: str, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Every field random, with scales that give values of about 1 / sqrt(columns)."""
    random = np.random.default_rng(seed)
    type = GGMLType[kind]
    data = random.integers(0, 256, (rows, type.row_bytes(columns)), dtype=np.uint8)
    blocks = data.reshape(-1, type.block_bytes)
    if kind == "MXFP4":  # powers of two of about the same size
        blocks[:, 0] = random.integers(110, 125, len(blocks))
        return data
    for start in _HALVES_AT.get(kind, (0,)):
        scales = random.normal(0, columns**-0.5 / 100, len(blocks)).astype(np.float16)
        blocks[:, start : start + 2] = scales.view(np.uint8).reshape(-1, 2)
    return data


def random_planes(
    kind: str, rows: int, columns: int, device: torch.device, seed: int = 0
) -> Planes:
    planes = empty_planes(kind, rows, columns, device)
    repack(torch.from_numpy(random_bytes(kind, rows, columns, seed)).to(device), planes)
    return planes


def relative_error(found: Tensor, expected: Tensor) -> float:
    """NaN counts as infinite."""
    distance = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(torch.nan_to_num(distance, nan=torch.inf))
