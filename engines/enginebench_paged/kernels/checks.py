"""What every launcher demands of its tensors: a kernel that gets anything else reads foreign
memory.
"""

import torch
from torch import Tensor

Scales = tuple[Tensor, Tensor]
"""What the keys and the values of an fp8 cache are to be multiplied by, (n_kv_heads,) each."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_shape(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def require_contiguous(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, its strides are {tensor.stride()}")


def require_dense_rows(**tensors: Tensor) -> None:
    """Demands a contiguous last dimension; others may be strided (a slice of a merged product)."""
    for name, tensor in tensors.items():
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"the last dimension of {name} must be contiguous, strides are {tensor.stride()}"
            )


def check_scales(cache: Tensor, scales: Scales | None) -> None:
    """An fp8 cache has float32 scales, any other has none."""
    require(
        (cache.dtype == torch.float8_e4m3fn) == (scales is not None),
        f"a cache of {cache.dtype} {'must have no' if scales else 'needs'} scales",
    )
    for scale in scales or ():
        require_shape("a cache's scale", scale, cache.shape[1])
        require(scale.dtype == torch.float32, f"a cache's scale is {scale.dtype}, not float32")
        require_contiguous(scale=scale)
