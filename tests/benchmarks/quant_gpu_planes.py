"""Random packed matrices on the GPU, for checks and timings of the quant engine's kernels."""

import torch

from enginebench_quant.gpu.synthetic import fill_planes
from enginebench_quant.kernels.gpu.planes import Planes, empty_planes


def random_planes(kind: str, rows: int, columns: int, seed: int) -> Planes:
    """Values of standard deviation 1 / sqrt(columns)."""
    device = torch.device("cuda", 0)
    planes = empty_planes(kind, rows, columns, device)
    fill_planes(planes, torch.Generator(device).manual_seed(seed))
    return planes
